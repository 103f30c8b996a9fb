"""What is of a kind and what is not; a public constructor takes no value of another kind."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import isabstract
from typing import Any, Protocol, TypeVar

import numpy as np
import pytest
import torch

import modula
from modula import duality, norms
from modula.norms.checks import check_fields, check_kind, in_words, is_kind

T = TypeVar("T")


class Shaped(Protocol):
    shape: tuple[int, ...]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, float),
        (float("inf"), float),
        (np.float32(0.5), float),
        (torch.tensor(0.5), float),
        (np.int64(3), int),
        (False, bool),
        (None, float | None),
        ((0.9, 1), tuple[float, float]),
        ((), tuple[int, ...]),
        ([1, 2], Sequence[int]),
        ({"a": 1.0}, Mapping[str, float]),
        (len, Callable[[Any], int]),
        (object(), Any),
        (object(), T),
        (object(), Shaped),
        ([], Shaped | None),
    ],
)
def test_what_is_of_a_kind(value: object, kind: Any) -> None:
    assert is_kind(value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("1", float, "a number"),
        (True, float, "a number"),
        (float("nan"), float, "a number"),
        (torch.ones(2), float, "a number"),
        (1.0, int, "a whole number"),
        (True, int, "a whole number"),
        (1, bool, "True or False"),
        (None, str, "a text"),
        ("a", int | None, "a whole number or None"),
        ((0.9,), tuple[float, float], "(a number, a number)"),
        ((0.9, 0.9, 0.9), tuple[float, float], "(a number, a number)"),
        ([0.9, 0.9], tuple[float, float], "(a number, a number)"),
        (("a",), tuple[int, ...], "a tuple of which each is a whole number"),
        ([1, "b"], Sequence[int], "a list of which each is a whole number"),
        ({1: 1.0}, Mapping[str, float], "a mapping from a text to a number"),
        (3, Callable[[Any], int], "a function"),
        (norms.RMS, norms.Norm, "a Norm"),
    ],
)
def test_what_is_not(value: object, kind: Any, words: str) -> None:
    assert not is_kind(value, kind)
    assert in_words(kind) == words
    with pytest.raises(ValueError, match="^One needs .* for two") as error:
        check_kind("One", "two", value, kind)
    assert "\n" not in str(error.value)


def test_a_field_whose_kind_cannot_be_looked_up_is_left_alone() -> None:
    @dataclass
    class Mine:
        x: "Unheard"  # noqa: F821  # type: ignore[name-defined]

    check_fields(Mine(3))


NEEDED = {
    "norm": norms.L2(2),
    "rate": 0.1,
    "peak": 0.1,
    "metric": norms.Diagonal(),
    "momentum": duality.Average(),
    "setting": duality.Setting(norms.L2(2)),
    "ess": 1e4,
    "pattern": "a b -> b a",
    "vector": norms.RMS(),
    "blocks": norms.L2().on("a b -> a b"),
    "factor": 2.0,
    "p": 4,
    "k": 2,
    "parts": (("a", norms.L2(2), 1.0),),
    "declarations": {},
    "coordinates": norms.LinearChain(),
    "form": norms.LinearChain(),
    "matrix": torch.eye(2),
    "basis": torch.eye(2),
    "scale": torch.ones(2),
    "dim": -1,
}
# Results and maps of tensors, which rules make and no user does, and what takes a function.
NOT_DECLARED = (
    *("Certificate", "Derived", "Line", "Live", "PerWeight", "Plan", "Program", "Row", "Slot"),
    *("FromDual", "Then", "Under"),
)


def constructors() -> Iterator[type]:
    for package in (modula, norms, duality):
        for name in package.__all__:
            found = getattr(package, name)
            if isinstance(found, type) and is_dataclass(found) and not isabstract(found):
                if name not in NOT_DECLARED:
                    yield found


@pytest.mark.parametrize("made", [*dict.fromkeys(constructors())], ids=lambda made: made.__name__)
def test_every_argument_of_every_constructor_is_looked_at(made: Any) -> None:
    needed = (f.name for f in fields(made) if f.default is f.default_factory is MISSING)
    given = {name: NEEDED[name] for name in needed}
    if made is norms.VarianceCorrected:
        given["metric"] = norms.Kronecker(fit=norms.Sum())
    made(**given)
    for field in fields(made):
        for bad in (object(), made, {3}):
            with pytest.raises(ValueError) as error:
                made(**{**given, field.name: bad})
            assert "\n" not in str(error.value)


def test_whole_numbers_of_numpy_count_as_any_other() -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    two = np.int64(2)
    blocks = norms.Spectral().on("(h o) i -> h o i", h=two)  # type: ignore[arg-type]
    assert torch.equal(blocks(x), norms.Spectral().on("(h o) i -> h o i", h=2)(x))
    assert torch.equal(norms.KyFan(two)(x), norms.KyFan(2)(x))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"ndim": -1}, {"iterations": 0}, {"iterations": -1}])
def test_what_is_no_count_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="0 trailing dims or more, .* 1 iteration or more; got"):
        norms.FromDual(torch.linalg.vector_norm, **wrong)


@pytest.mark.parametrize("wrong", [{"ndim": 1.5}, {"iterations": "many"}])
def test_what_is_no_whole_number_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="FromDual needs a whole number for"):
        norms.FromDual(torch.linalg.vector_norm, **wrong)
