"""Whatever the streams of a command are, it ends with one sentence or none, and the right code."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modula.cli.console import exit_on_user_error, prepare_streams, screen
from modula.errors import UserError
from sources import ROOT


def code_of(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise error
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no"), 2, "modula: no\n"),
        (KeyboardInterrupt(), 130, "\nmodula: stopped; nothing was kept\n"),
        (KeyboardInterrupt("go on so"), 130, "\nmodula: stopped; go on so\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
        (OSError(28, "No space left"), 2,
         "modula: cannot go on with the standard output: No space left\n"),
        (PermissionError(13, "Permission denied", "x/y"), 2,
         "modula: cannot go on with x/y: Permission denied\n"),
        (MemoryError(), 2, "modula: the memory of this machine is used up: take smaller sizes\n"),
    ],
)  # fmt: skip
def test_an_error_is_one_sentence_with_its_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(error, capsys) == (code, said)


def test_closed_streams_lead_nowhere() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("stdin", "stdout", "stderr"):
            patch.setattr(sys, name, None)
        prepare_streams()
        opened = [sys.stdin, sys.stdout, sys.stderr]
        assert sys.stdin.read() == ""
        screen().print("nobody hears this")
    for stream in opened:
        stream.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_letter_is_printed_in_every_locale(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    prepare_streams()
    screen().print("[/x] :corn: �漢 \udcff end", markup=False)
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert text.startswith("[/x] :corn: ") and text.endswith(" end\n")


def command(*words: str, code: int, cwd: Path, **streams: object) -> str:
    """What `modula *words` said on stderr, run by itself with these standard streams."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    run = [sys.executable, "-m", "modula", *words]
    ended = subprocess.run(
        run, env=environment, stderr=subprocess.PIPE, text=True, cwd=cwd, **streams
    )  # type: ignore[call-overload]
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    return str(ended.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_sentence(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        said = command("explain", "--width", "8", "--heads", "2", code=2, cwd=tmp_path, stdout=full)
    assert said == "modula: cannot go on with the standard output: No space left on device\n"


def test_a_reader_that_went_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        said = command(
            "explain", "--width", "8", "--heads", "2", code=1, cwd=tmp_path, stdout=write
        )
    finally:
        os.close(write)
    assert said == ""


@pytest.mark.skipif(os.name != "posix", reason="closes a stream by the shell")
def test_without_stdout_it_trains_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("words, and more words\n" * 100)
    sizes = "--width 8 --depth 1 --heads 2 --context 8 --batch 2 --steps 1 --device cpu"
    line = f'exec "$0" -m modula train --data t.py {sizes} --out out <&- >&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", line, sys.executable], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "out" / "curves.png").exists()
