"""Momenta: the average that each follows, against the plain recursion, and its declared state."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.duality import (
    Average,
    Behind,
    Between,
    HeavyBall,
    Momentum,
    NoMomentum,
    Program,
    QueryStore,
    Unbiased,
)
from modula.duality.program.program import counting_steps

Recursion = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]  # m, g, step -> next m, query


def unbiased(m: Tensor, g: Tensor, step: int) -> tuple[Tensor, Tensor]:
    raw = 0.9 * m * (1 - 0.9 ** (step - 1)) + 0.1 * g
    return raw / (1 - 0.9**step), raw / (1 - 0.9**step)


CASES: list[tuple[Momentum, Recursion]] = [
    (NoMomentum(), lambda m, g, _: (m, g)),
    (Average(0.9), lambda m, g, _: (0.9 * m + 0.1 * g,) * 2),
    (
        Average(0.9, nesterov=True),
        lambda m, g, _: (0.9 * m + 0.1 * g, 0.9 * (0.9 * m + 0.1 * g) + 0.1 * g),
    ),
    (HeavyBall(0.9), lambda m, g, _: (0.9 * m + g,) * 2),
    (HeavyBall(0.9, nesterov=True), lambda m, g, _: (0.9 * m + g, g + 0.9 * (0.9 * m + g))),
    (QueryStore(0.9, 0.99), lambda m, g, _: (0.99 * m + 0.01 * g, 0.9 * m + 0.1 * g)),
    (Unbiased(0.9), unbiased),
]


@pytest.mark.parametrize(("momentum", "recursion"), CASES, ids=[str(m) for m, _ in CASES])
def test_it_follows_the_plain_recursion(momentum: Momentum, recursion: Recursion) -> None:
    lines, slots = counting_steps(momentum.lines(), momentum.slots)
    program = Program(lines, (), momentum.query, momentum.query, slots)
    weight = torch.zeros(4, 3, dtype=torch.float64)
    kept = {name: slot.first(weight) for name, slot in slots}
    m = torch.zeros_like(weight)
    for step in range(1, 5):
        gradient = torch.randn(4, 3, dtype=torch.float64)
        m, query = recursion(m, gradient, step)
        tensors = program.run(gradient=gradient, **kept)
        kept = {name: tensors[name] for name in kept}
        assert_close(tensors[momentum.query], query)


@pytest.mark.parametrize("wrapped", [Between(Average()), Behind(HeavyBall())], ids=str)
def test_momenta_elsewhere_leave_the_gradient_to_the_direction(wrapped: Momentum) -> None:
    assert wrapped.query == "gradient" and wrapped.lines() == () and wrapped.slots == ()
    assert (wrapped.between() or wrapped.behind()) in (Average(), HeavyBall())


@pytest.mark.parametrize("make", [Average, HeavyBall, Unbiased, QueryStore])
@pytest.mark.parametrize("beta", [-0.1, 1.0, 2.0])
def test_a_coefficient_outside_its_range_is_refused(
    make: Callable[[float], Momentum], beta: float
) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        make(beta)
