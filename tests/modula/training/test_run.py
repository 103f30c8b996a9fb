"""A run learns, remembers, and goes on as if it had never stopped."""

import copy
import itertools
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modula.errors import Diverged, UserError
from modula.recipes import RECIPES
from modula.training import checkpoint
from modula.training.config import Config, read_config, to_toml
from modula.training.data import Text, split
from modula.training.records import Record, read_records
from modula.training.run import Run, sample, update_norm

TINY = Config(
    width=16,
    depth=1,
    heads=2,
    context=16,
    batch=4,
    steps=12,
    device="cpu",
    validate_every=4,
    checkpoint_every=3,
    norms_every=2,
)


@pytest.fixture(scope="module")
def text() -> Text:
    return split("a sentence, often", [b"the quick brown fox jumps over the lazy dog. " * 60])


def timeless(records: list[Record]) -> list[Record]:
    """What must be equal between two runs: all but the clock."""
    return [replace(record, seconds=0.0, tokens_per_second=0.0) for record in records]


def metrics_of(folder: Path) -> list[Record]:
    return timeless(read_records(folder / "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(text: Text, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    list(Run(TINY, text, folder))
    return folder


def test_a_record_a_step_says_what_is_promised(whole: Path) -> None:
    records = read_records(whole / "metrics.jsonl")
    assert [r.step for r in records] == list(range(1, 13))
    assert [r.step for r in records if r.val_loss is not None] == [4, 8, 12]
    assert [r.step for r in records if r.update_norms is not None] == [2, 4, 6, 8, 10, 12]
    assert all(0 < a.seconds < b.seconds for a, b in zip(records, records[1:], strict=False))
    assert records[0].loss == pytest.approx(math.log(256), rel=0.1)


def test_it_learns(text: Text, tmp_path: Path) -> None:
    config = replace(TINY, steps=60, checkpoint_every=60)
    assert [record.loss for record in Run(config, text, tmp_path)][-1] < 3.5


@pytest.mark.parametrize("stop", [1, 3, 4, 11, 12])
def test_a_stopped_run_goes_on_to_the_same_numbers(
    text: Text, whole: Path, tmp_path: Path, stop: int
) -> None:
    for record in Run(TINY, text, tmp_path):
        if record.step == stop:
            break
    again = Run(TINY, text, tmp_path)
    assert again.step == stop - stop % 3 if stop < 12 else 12
    list(again)
    assert metrics_of(tmp_path) == metrics_of(whole)
    for name, weight in Run(TINY, text, whole).model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_goes_on_to_the_same_numbers(text: Text, tmp_path: Path, name: str) -> None:
    config = replace(TINY, optimizer=name, steps=5)
    list(Run(config, text, tmp_path / "whole"))
    for record in Run(config, text, tmp_path / "parts"):
        if record.step == 4:
            break
    list(Run(config, text, tmp_path / "parts"))
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_microbatches_add_up_to_the_batch(text: Text, tmp_path: Path) -> None:
    config = replace(TINY, optimizer="muon", batch=5, steps=4)
    runs = [
        list(Run(replace(config, microbatches=count), text, tmp_path / str(count)))
        for count in (1, 3, 5)
    ]
    whole, *others = ([record.loss for record in records] for records in runs)
    for other in others:
        assert other == pytest.approx(whole, rel=1e-4)


def test_an_optimizer_that_compares_microbatches_gets_some(text: Text, tmp_path: Path) -> None:
    def count(path: str, **options: Any) -> int:
        return Run(replace(TINY, **options), text, tmp_path / path).microbatches

    assert count("plain", optimizer="adamw") == 1
    assert count("compares", optimizer="bias_corrected_sophia") == min(4, TINY.batch)
    assert count("chosen", optimizer="bias_corrected_adamw", microbatches=2) == 2
    for options in ({"batch": 1}, {"microbatches": 1}):
        with pytest.raises(UserError, match="bias_corrected_adamw compares the microbatches of a"):
            count("one", optimizer="bias_corrected_adamw", **options)
    with pytest.raises(UserError, match="microbatches must be from 1 to batch = 4"):
        replace(TINY, batch=4, microbatches=5)


def test_the_learning_rate_falls_linearly_to_zero(text: Text, tmp_path: Path) -> None:
    config = replace(TINY, optimizer="adamw", lr=0.5, steps=4)
    rates = [record.lr for record in Run(config, text, tmp_path)]
    torch.testing.assert_close(rates, [0.5, 0.375, 0.25, 0.125])


def test_the_first_step_depends_on_the_seed_alone(text: Text, tmp_path: Path) -> None:
    def first_loss(optimizer: str, seed: int) -> float:
        config = replace(TINY, optimizer=optimizer, seed=seed)
        return next(iter(Run(config, text, tmp_path / f"{optimizer}{seed}"))).loss

    assert first_loss("adamw", 1) == first_loss("muon", 1) != first_loss("muon", 2)


def test_update_norms_are_the_length_of_the_step_in_the_declared_norm(
    text: Text, tmp_path: Path
) -> None:
    """Modular duality without decay moves each weight by lr times its budget."""
    run = Run(replace(TINY, optimizer="modular", lr=0.25, norms_every=1), text, tmp_path)
    record = next(iter(run))
    budgets = {row.name: 0.25 * row.budget for row in run.optimizer.plan.rows}
    assert record.update_norms is not None
    for name, norm in record.update_norms.items():
        assert norm == pytest.approx(budgets[name], rel=0.1)


def test_an_undeclared_weight_is_measured_in_rms() -> None:
    assert update_norm(torch.tensor([3.0, -4.0]), None) == pytest.approx(math.sqrt(12.5))


class Poisoned(torch.nn.Module):
    """Gives NaN from the third training batch on."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        scores: torch.Tensor = self.model(tokens)
        return scores * (math.nan if self.calls >= 3 else 1.0)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(
    text: Text, tmp_path: Path
) -> None:
    run = Run(replace(TINY, checkpoint_every=2), text, tmp_path)
    run.model = Poisoned(run.model)  # type: ignore[assignment]
    with pytest.raises(UserError, match="loss is nan at step 3: .* last good checkpoint, step 2,"):
        list(run)
    assert [r.step for r in read_records(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_weight_that_is_not_finite_is_never_saved(text: Text, tmp_path: Path) -> None:
    run = Run(TINY, text, tmp_path)
    steps = iter(run)
    next(steps), next(steps)
    with torch.no_grad():
        run.model.head.weight[0, 0] = math.inf
    with pytest.raises(UserError, match="training stopped, no checkpoint was made yet"):
        next(steps)
    assert checkpoint.steps_in(tmp_path / "checkpoint") == []


def test_other_text_or_other_settings_are_refused(whole: Path, text: Text) -> None:
    with pytest.raises(UserError, match="the text is not the one"):
        Run(TINY, split("other", [b"something else " * 60]), whole)
    with pytest.raises(UserError, match="holds another run"):
        Run(replace(TINY, seed=1), text, whole)


def copied(whole: Path, tmp_path: Path, **forged: Any) -> Path:
    """A folder like that of a whole run, whose newest checkpoint has other parts."""
    found = checkpoint.load_newest(whole / "checkpoint")
    assert found is not None
    for name in ("config.toml", "metrics.jsonl"):
        shutil.copy(whole / name, tmp_path)
    checkpoint.save(tmp_path / "checkpoint", replace(found, **forged))
    return tmp_path


@pytest.mark.parametrize(
    "edited",
    [{"seed": 1}, {"context": 8}, {"threads": 2}, {"steps": 24}, {"batch": 2},
     {"checkpoint_every": 2}, {"optimizer": "muon", "lr": 0.1}],
)  # fmt: skip
def test_an_edited_config_is_noticed_with_what_differs(
    whole: Path, text: Text, tmp_path: Path, edited: dict[str, Any]
) -> None:
    folder, now = copied(whole, tmp_path), replace(TINY, **edited)
    (folder / "config.toml").write_text(to_toml(now))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        Run(read_config(folder), text, folder)
    said = ", ".join(f"{k} is {v!r} and was {getattr(TINY, k)!r}" for k, v in edited.items())
    assert f"config.toml was edited since step 12: {said}; a run goes on with" in str(caught.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_where_the_text_is_and_where_it_computes_may_change(
    whole: Path, text: Text, tmp_path: Path
) -> None:
    folder = copied(whole, tmp_path)
    moved = replace(TINY, data="elsewhere", device="cpu:0")
    (folder / "config.toml").write_text(to_toml(moved))
    assert Run(read_config(folder), text, folder).step == 12


def forged_optimizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Any], dict[str, Any]]:
    def forge(found: checkpoint.Checkpoint) -> dict[str, Any]:
        state = copy.deepcopy(found.state)
        change(state["optimizer"])
        return {"state": state}

    return forge


FORGED: dict[str, Callable[[checkpoint.Checkpoint], dict[str, Any]]] = {
    "no state": lambda found: {"state": {}},
    "state is a list": lambda found: {"state": [1]},
    "no random numbers": lambda found: {"state": {"optimizer": found.state["optimizer"]}},
    "random text": lambda found: {"state": {**found.state, "random": "abc"}},
    "random shape": lambda found: {"state": {**found.state, "random": torch.zeros(3)}},
    "no optimizer": lambda found: {"state": {**found.state, "optimizer": None}},
    "no seconds": lambda found: {"about": {**found.about, "seconds": "soon"}},
    "nothing about": lambda found: {"about": {}},
    "no config": lambda found: {"about": {**found.about, "config": None}},
    "unknown config": lambda found: {"about": {**found.about, "config": {"widht": 3}}},
    "no weights": lambda found: {"weights": {}},
    "another shape": lambda found: {
        "weights": {**found.weights, "head.weight": torch.zeros(256, 8)}
    },
    "a weight more": lambda found: {"weights": {**found.weights, "x": torch.zeros(1)}},
    "no groups": forged_optimizer(lambda o: o["param_groups"].clear()),
    "rate of text": forged_optimizer(lambda o: o["param_groups"][0].update(momentum="x")),
    "another decay": forged_optimizer(lambda o: o["param_groups"][0].update(weight_decay=3.0)),
    "empty state": forged_optimizer(lambda o: o["state"].clear()),
    "tensor is text": forged_optimizer(lambda o: o["state"][0].update(momentum="x")),
    "state of another shape": forged_optimizer(
        lambda o: o["state"][0].update(momentum=torch.zeros(3))
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_checkpoint_is_one_sentence_and_changes_nothing(
    whole: Path, text: Text, tmp_path: Path, kind: str
) -> None:
    found = checkpoint.load_newest(whole / "checkpoint")
    assert found is not None
    folder = copied(whole, tmp_path, **FORGED[kind](found))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        Run(TINY, text, folder)
    said = str(caught.value)
    assert re.match("the checkpoint .*(does not fit|is broken): .|the text is not the one", said)
    assert "\n" not in said
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_schedule_of_a_resumed_run_is_that_of_its_config(
    whole: Path, text: Text, tmp_path: Path
) -> None:
    found = checkpoint.load_newest(whole / "checkpoint")
    assert found is not None
    forge = forged_optimizer(lambda o: o["param_groups"][0].update(lr="x", initial_lr=1e30))
    run = Run(TINY, text, copied(whole, tmp_path, **forge(found)))
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.0]


def test_two_runs_in_one_folder_do_not_mix(text: Text, tmp_path: Path) -> None:
    first, second = Run(TINY, text, tmp_path), Run(TINY, text, tmp_path)
    steps = iter(first)
    next(steps)
    with pytest.raises(UserError, match=f"checkpoint is in use by process {os.getpid()}"):
        next(iter(second))
    list(steps)
    with pytest.raises(UserError, match="another process has meanwhile taken the run .* 0 to 12"):
        next(iter(second))
    assert [r.step for r in read_records(tmp_path / "metrics.jsonl")] == list(range(1, 13))


class Killed(BaseException):
    """The process ends here: nothing catches it."""


@pytest.mark.parametrize(
    ("module", "name"), [(os, "replace"), (os, "fsync"), (shutil, "rmtree"), (Path, "open")]
)
@pytest.mark.parametrize("at", [0, 3, 7])
def test_killed_at_a_file_operation_it_goes_on_to_the_same_numbers(
    text: Text, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    module: Any, name: str, at: int,
) -> None:  # fmt: skip
    real, calls = getattr(module, name), itertools.count()

    def stand_in(*args: Any, **options: Any) -> Any:
        if next(calls) >= at:
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(module, name, stand_in)
        list(Run(TINY, text, tmp_path))
    list(Run(TINY, text, tmp_path))
    assert metrics_of(tmp_path) == metrics_of(whole)
    assert not list((tmp_path / "checkpoint").glob(".*-step-*"))


def test_what_a_killed_last_save_left_is_cleared(whole: Path, text: Text, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    for name in (".old-step-00000009", ".new-step-00000012"):
        (folder / "checkpoint" / name).mkdir()
    assert list(Run(TINY, text, folder)) == []
    assert [p.name for p in (folder / "checkpoint").glob("*step*")] == ["step-00000012"]


@pytest.mark.parametrize("lr", [1e20, 1e38, 1e300])
@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_a_run_that_explodes_says_so_whatever_is_measured(
    text: Text, tmp_path: Path, optimizer: str, lr: float
) -> None:
    config = replace(TINY, optimizer=optimizer, lr=lr, norms_every=1, validate_every=1)
    with pytest.raises(Diverged, match="training stopped, no checkpoint was made yet"):
        list(Run(config, text, tmp_path))


@pytest.mark.parametrize(
    "options",
    [{"steps": 1}, {"validate_every": 10**6, "checkpoint_every": 10**6, "norms_every": 10**6}],
)
def test_the_last_step_is_measured_and_saved_whatever_the_intervals(
    text: Text, tmp_path: Path, options: dict[str, int]
) -> None:
    *_, last = Run(replace(TINY, **options), text, tmp_path)
    assert last.val_loss is not None and last.update_norms is not None
    assert checkpoint.steps_in(tmp_path / "checkpoint") == [last.step]


def test_a_sample_continues_its_prompt_and_repeats(whole: Path, text: Text) -> None:
    model = Run(TINY, text, whole).model
    said = sample(model, b"the ", 40, context=16)
    assert said.startswith("the ")
    assert sample(model, b"the ", 40, context=16) == said
