"""A slice of `benchmarks/fuzz.py`, and that it catches what it looks for."""

import logging
from collections.abc import Iterator

import pytest
import torch
from fuzz import kind_of, summary, told
from torch import Tensor

from fuzzing.trial import Trial, run
from modula import SteepestDescent
from modula.recipes import RECIPES

CASES = range(250)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Projections are logged by the hundred."""
    logger = logging.getLogger("modula")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def test_nothing_goes_wrong() -> None:
    trials = [run(1, case) for case in CASES]
    assert not told(trials)
    assert sum(each.steps for each in trials) > 500
    assert {each.recipe for each in trials} == {*RECIPES}


def test_a_case_is_always_the_same_one() -> None:
    assert str(run(1, 7)) == str(run(1, 7))
    assert str(run(1, 7)) != str(run(1, 8))
    assert run(1, 7, "muon").recipe == "muon"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("moves", "moved by"),
        ("nan", "holds"),
        ("error", "IndexError"),
        ("changes", "ValueError left weights or state changed"),
    ],
)
def test_faults_are_found(fault: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SteepestDescent.step

    @torch.no_grad()
    def step(optimizer: SteepestDescent, *given: object) -> object:
        weights: list[Tensor] = [w for group in optimizer.param_groups for w in group["params"]]
        if fault == "error":
            raise IndexError("list index out of range")
        if fault != "changes":
            result = honest(optimizer, *given)  # type: ignore[arg-type]
        for weight in weights:
            weight.add_(1.0) if fault != "nan" else weight.fill_(float("nan"))
        if fault == "changes":
            raise ValueError("this is one sentence")
        return result

    monkeypatch.setattr(SteepestDescent, "step", step)
    assert words in told([run(2, case) for case in range(12)])


def test_failures_are_counted_by_kind() -> None:
    trials = [
        Trial(0, 3, "muon", wrong=["step 1: parts.0.weight moved at lr = 0"]),
        Trial(0, 4, "muon", wrong=["step 2: parts.1.own moved at lr = 0"]),
        Trial(0, 5, "sgd", refused="no"),
    ]
    assert told(trials).startswith("2 x step 1: parts.0.weight moved at lr = 0\n    case 3: muon()")
    assert kind_of(trials[0].wrong[0]) == kind_of(trials[1].wrong[0])
    lines = [line.split() for line in summary(trials, 1.0).splitlines()]
    rows = {cells[1]: cells[3::2] for cells in lines if len(cells) > 3 and cells[0] == "│"}
    assert rows["muon"] == ["2", "0", "0", "0", "2"]
    assert rows["all"] == ["3", "1", "0", "0", "2"]
