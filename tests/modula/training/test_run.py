"""A run learns, remembers, and goes on as if it had never stopped."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modula.errors import UserError
from modula.recipes import RECIPES
from modula.training import checkpoint
from modula.training.config import Config
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


def test_a_checkpoint_of_another_network_is_refused(
    whole: Path, text: Text, tmp_path: Path
) -> None:
    found = checkpoint.load_newest(whole / "checkpoint")
    assert found is not None
    weights = {**found.weights, "head.weight": torch.zeros(256, 8)}
    checkpoint.save(tmp_path / "checkpoint", replace(found, weights=weights))
    with pytest.raises(UserError, match="does not fit: .*head.weight"):
        Run(TINY, text, tmp_path)


def test_a_sample_continues_its_prompt_and_repeats(whole: Path, text: Text) -> None:
    model = Run(TINY, text, whole).model
    said = sample(model, b"the ", 40, context=16)
    assert said.startswith("the ")
    assert sample(model, b"the ", 40, context=16) == said
