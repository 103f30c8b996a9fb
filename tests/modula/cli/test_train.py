"""modula train, as a person uses it: what it prints, what it leaves, how it refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import modula, refused
from typer.testing import Result

from modula.training import experiment, progress, report
from modula.training.config import read_config
from modula.training.records import Record, read_records
from sources import ROOT

SIZES = "--width 16 --depth 1 --heads 2 --context 16 --batch 4 --device cpu".split()
DRAW_CURVES = report.draw_curves
TEXT = "def spam(eggs):\n    return eggs + 1  # and again\n" * 60


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder with a text in it; pictures and samples cost no time."""
    (tmp_path / "text.py").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "draw_curves", lambda records, path, title: path.touch())
    monkeypatch.setattr(progress, "SAMPLE_BYTES", 5)


def train(*words: str) -> Result:
    return modula("train", "--data", "text.py", *SIZES, *words)


def test_training_shows_the_plan_the_numbers_and_a_sample_and_leaves_its_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "draw_curves", DRAW_CURVES)
    result = train("--steps", "6", "--validate-every", "3", "--out", "out")
    assert result.exit_code == 0, result.output
    for part in ("RMSToRMS()", "budget", "step      3", "tokens/s", "the network writes", "sha256"):
        assert part in result.stdout
    left = {path.name for path in Path("out").iterdir()} - {".lock"}
    assert left == {"config.toml", "metrics.jsonl", "curves.png", "plan.html", "checkpoint"}
    assert "head.weight" in Path("out/plan.html").read_text(encoding="utf-8")
    assert Path("out/curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_default_folder_is_named_after_the_time() -> None:
    assert train("--steps", "1").exit_code == 0
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)


@pytest.mark.parametrize("words", [["adamw", "muon"], ["adamw,muon"]])
def test_a_comparison_takes_its_names_with_spaces_or_commas(words: list[str]) -> None:
    result = train("--out", "out", "--compare", *words, "--steps", "2")
    assert result.exit_code == 0, result.output
    assert {p.name for p in Path("out").iterdir()} - {".lock"} == {
        "adamw", "muon", "comparison.json", "comparison.md", "comparison.png"
    }  # fmt: skip
    table = Path("out/comparison.md").read_text().splitlines()
    assert len(table) == 4
    losses = [float(line.split("|")[2]) for line in table[2:]]
    assert losses == sorted(losses)
    first = [read_records(Path("out") / n / "metrics.jsonl")[0].loss for n in ("adamw", "muon")]
    assert first[0] == first[1]


def test_a_comparison_takes_learning_rates_and_goes_on() -> None:
    assert (
        train("--out", "out", "--compare", "adamw@0.01", "adamw@0.1", "--steps", "2").exit_code == 0
    )
    before = [read_records(p) for p in sorted(Path("out").glob("*/metrics.jsonl"))]
    assert [records[0].lr for records in before] == pytest.approx([0.01, 0.1])
    result = modula("train", "--resume", "out")
    assert result.exit_code == 0, result.output
    assert [read_records(p) for p in sorted(Path("out").glob("*/metrics.jsonl"))] == before


def test_contenders_take_options_of_their_recipe() -> None:
    words = ["soap@0.02@momentum=0.5@state_dtype=bfloat16", "adamw@betas=(0.8,0.9),adamw"]
    assert train("--out", "out", "--compare", *words, "--steps", "1").exit_code == 0
    soap, adamw = (read_config(Path("out") / name) for name in (words[0], "adamw@betas=(0.8,0.9)"))
    assert (soap.lr, soap.options) == (0.02, "momentum=0.5 state_dtype=bfloat16")
    assert soap.recipe_options() == {"lr": 0.02, "momentum": 0.5, "state_dtype": torch.bfloat16}
    assert adamw.recipe_options() == {"lr": 0.016, "betas": (0.8, 0.9)}
    plan = Path(f"out/{words[0]}/plan.html").read_text(encoding="utf-8")
    assert "beta=0.5" in plan


def test_a_rival_that_diverges_does_not_stop_the_others() -> None:
    result = train("--out", "out", "--compare", "sgd@1e30", "adamw", "--steps", "4")
    assert result.exit_code == 0, result.output
    assert "sgd@1e30: the loss is nan" in result.stdout
    table = Path("out/comparison.md").read_text().splitlines()
    assert [line.split(" ")[1] for line in table[2:]] == ["adamw", "sgd@1e30"]
    assert "| diverged at step 2 |" in table[3]


def test_a_config_file_is_overruled_by_the_command_line() -> None:
    Path("my.toml").write_text('optimizer = "adamw"\nlr = 0.5\nsteps = 3\n')
    assert train("--config", "my.toml", "--steps", "2", "--out", "out").exit_code == 0
    records = read_records(Path("out/metrics.jsonl"))
    assert [record.lr for record in records] == [0.5, 0.25]


def test_the_newest_run_is_resumed_by_default() -> None:
    assert train("--steps", "2").exit_code == 0
    result = modula("train", "--resume")
    assert result.exit_code == 0
    assert "going on from step 2 of 2" in result.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--data", "nowhere"], "cannot read nowhere"),
        (["--data", "empty"], "no text found in empty"),
        (["--data", "binary"], "binary is not a text file: it has a NUL byte"),
        (["--context", "5000"], "a context of 5000 bytes is longer than the training text"),
        (["--optimizer", "adamww"], "did you mean adamw"),
        (["--compare", "muon", "lyon"], "unknown optimizer 'lyon': did you mean lion"),
        (["--compare", "muon@fast"], "'fast' is no number"),
        (["--options", "momentum=much"], "NAME=VALUE with a number for VALUE"),
        (["--options", "lr=1"], "the learning rate is given as lr"),
        (
            ["--optimizer", "muon", "--options", "momentun=0.9"],
            "recipes.muon has no option 'momentun': did you mean momentum?",
        ),
        (["--compare", "muon", "soap@every=0.5"], "recipes.soap needs a whole number for every"),
        (["--optimizer", "muon", "--options", "momentum=2"], "muon with momentum=2: "),
        (["--lr", "0.1"], "automatic chooses its own learning rate"),
        (["--heads", "3"], "3 heads do not divide"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--device", "abacus"], "device 'abacus'"),
        (["--device", "cuda:99"], "device 'cuda:99'"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--config", "text.py"], "text.py is not a TOML file"),
        (["--config", "typo.toml"], "unknown key 'widht' in typo.toml: did you mean width"),
        (["--out", "text.py"], "cannot write text.py"),
        (["stray"], "unexpected word 'stray'"),
        (["--seed", "99999999999999999999"], "seed must be from"),
        (["--threads", "100000"], "threads must be positive and at most 512"),
        (["--batch", "100000000"], "of memory, and "),
        (["--width", "1000000"], "of memory, and "),
        (["--compare", "muon", "../x"], "unknown optimizer '../x'"),
        (["--compare", "muon@x=../../x"], "cannot be the name of a folder"),
        (["--compare", "muon", "muon"], "would have the same folder as muon"),
        (["--data", "loop"], "cannot read loop"),
        (["--out", "loop"], "cannot "),
        (["--out", "n" * 300], "File name too long"),
        (["--out", "text.py/sub"], "cannot "),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words: list[str], part: str) -> None:
    Path("empty").mkdir()
    Path("binary").write_bytes(b"a\x00b")
    Path("typo.toml").write_text("widht = 3")
    Path("loop").symlink_to("loop")
    assert part in refused(train(*words))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "there is no run below runs/"),
        (["empty"], "empty holds no run to resume"),
        (["empty", "--out", "other"], "one folder can be resumed, not empty and other"),
        (["empty", "--steps", "3"], "leave out --steps"),
        (["empty", "--compare", "muon"], "leave out --compare"),
    ],
)
def test_what_cannot_be_resumed_is_one_sentence(words: list[str], part: str) -> None:
    Path("empty").mkdir()
    assert part in refused(modula("train", "--resume", *words))


def test_a_used_folder_and_a_broken_checkpoint_are_refused() -> None:
    assert train("--steps", "2", "--checkpoint-every", "1", "--out", "out").exit_code == 0
    assert "go on with it by --resume out" in refused(train("--steps", "2", "--out", "out"))
    Path("out/checkpoint/step-00000002/weights.safetensors").write_bytes(b"nonsense")
    assert "remove that folder to continue from step 1" in refused(
        modula("train", "--resume", "out")
    )


def start(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "modula", "train", *words]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env={**os.environ, **threads}, stdout=subprocess.DEVNULL)


def measured(folder: str) -> list[Record]:
    records = read_records(Path(folder) / "metrics.jsonl")
    return [replace(record, seconds=0.0, tokens_per_second=0.0) for record in records]


def test_killed_without_warning_it_goes_on_to_the_same_numbers() -> None:
    words = ["--data", "text.py", *SIZES, "--steps", "40", "--checkpoint-every", "3"]
    assert modula("train", *words, "--out", "whole").exit_code == 0
    killed = start(*words, "--out", "killed")
    while len(read_records(Path("killed/metrics.jsonl"))) < 8:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    killed.wait()
    assert len(measured("killed")) < 40
    assert modula("train", "--resume", "killed").exit_code == 0
    assert measured("killed") == measured("whole")


def test_a_folder_that_another_process_trains_in_is_refused() -> None:
    words = ["--data", "text.py", *SIZES, "--steps", "100000", "--out", "busy"]
    busy = start(*words)
    try:
        while len(read_records(Path("busy/metrics.jsonl"))) < 2:
            assert busy.poll() is None
            time.sleep(0.01)
        for again in (["--resume", "busy"], ["--resume", "--out", "busy"]):
            assert f"busy is in use by process {busy.pid}: " in refused(modula("train", *again))
        assert "busy holds a run already" in refused(train("--steps", "1", "--out", "busy"))
        assert busy.poll() is None
    finally:
        busy.kill()
        busy.wait()
    assert modula("train", "--resume", "busy", "--steps", "3").exit_code == 2


def test_runs_that_begin_in_the_same_second_get_a_folder_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    for _ in range(3):
        assert train("--steps", "1").exit_code == 0
    assert {path.name for path in Path("runs").iterdir()} == {"now", "now_2", "now_3"}


@pytest.mark.parametrize(
    "words", [["--out", "out"], ["--out", "out", "--compare", "muon", "adamw"]]
)
def test_stopped_by_hand_it_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "train_with_progress", stop)
        result = train("--steps", "2", *words)
    assert result.exit_code == 130
    assert result.stderr == "\nmodula: stopped; go on with modula train --resume out\n"
    assert modula("train", "--resume", "out").exit_code == 0


def test_an_edited_config_is_refused_and_a_finished_run_resumed() -> None:
    assert train("--steps", "2", "--out", "out").exit_code == 0
    path = Path("out/config.toml")
    written = path.read_text()
    path.write_text(written.replace("seed = 0", "seed = 5"))
    said = refused(modula("train", "--resume", "out"))
    assert "out/config.toml was edited since step 2: seed is 5 and was 0; " in said
    path.write_text(written)
    assert "going on from step 2 of 2" in modula("train", "--resume", "out").stdout


def test_a_crafted_comparison_writes_nowhere_else() -> None:
    assert train("--out", "out", "--compare", "muon", "--steps", "1").exit_code == 0
    Path("aim").mkdir()
    shutil.copy("out/muon/config.toml", "aim")
    for name in ("../aim", str(Path("aim").resolve()), "muon/../../aim"):
        Path("out/comparison.json").write_text(json.dumps([name]))
        assert "comparison.json is broken" in refused(modula("train", "--resume", "out"))
    assert [path.name for path in Path("aim").iterdir()] == ["config.toml"]


def test_help_has_examples() -> None:
    result = modula("train", "--help")
    assert result.exit_code == 0
    assert "modula train --compare adamw muon automatic" in result.stdout


def test_a_disk_that_fills_up_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        said = refused(train("--steps", "4", "--checkpoint-every", "2", "--out", "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write out/checkpoint/step-00000002: File too large" in said
    assert len(read_records(Path("out/metrics.jsonl"))) == 2


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    Path("[").mkdir()
    Path("[/x]:corn:.py").write_text(TEXT)
    words = ["--data", "[/x]:corn:.py", *SIZES, "--steps", "1", "--out", "[bold]out"]
    result = modula("train", *words)
    assert result.exit_code == 0, result.output
    assert "[/x]:corn:.py: 1 files" in result.stdout
    assert "results go to [bold]out\n" in result.stdout
