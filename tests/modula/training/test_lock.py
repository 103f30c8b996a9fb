"""One process has a folder; a lock goes with its process, however that ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modula.errors import UserError
from modula.training import lock
from modula.training.lock import LOCK, locked
from sources import ROOT

HOLD = """
import sys, time
from pathlib import Path
from modula.training.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught, locked(folder):
        raise AssertionError("locked twice")
    return str(caught.value)


def test_a_folder_is_locked_once_and_then_free_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with locked(folder):
        said = refusal(folder)
        assert said.startswith(f"{folder} is in use by process {os.getpid()}: ")
        with locked(folder / "another"):
            pass
    with locked(folder):
        pass


def test_an_error_inside_lets_it_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_process_locks_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        assert f"in use by process {holder.pid}" in refusal(tmp_path)
        holder.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


@pytest.mark.parametrize("left", [b"", b"12345", b"\xff\x00nonsense", b"9" * 5000])
def test_what_a_lock_file_holds_locks_nothing_and_is_no_name(tmp_path: Path, left: bytes) -> None:
    (tmp_path / LOCK).write_bytes(left)
    with locked(tmp_path):
        pass
    (tmp_path / LOCK).write_bytes(left)
    with (tmp_path / LOCK).open("a+b") as file:
        lock._take(file)
        assert "is in use by" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["file", "below a file", "lock is a folder"])
def test_what_cannot_be_locked_is_one_sentence(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "it"
    if kind == "lock is a folder":
        (folder / LOCK).mkdir(parents=True)
    else:
        folder.touch()
    asked = folder / "sub" if kind == "below a file" else folder
    verb = "lock" if kind == "lock is a folder" else "write"
    assert refusal(asked).startswith(f"cannot {verb} {asked}: ")


def test_a_disk_without_locks_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(file: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "_take", unsupported)
    assert "Operation not supported; take a folder on another disk" in refusal(tmp_path)
