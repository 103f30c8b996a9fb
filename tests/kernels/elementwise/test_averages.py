"""Averages: each foreach twin does what the plain one says, in place where named."""

from typing import Any

import pytest
import torch

from modula.kernels.elementwise import averages
from modula.kernels.op import Cost, Op
from twins import assert_twins_agree, tensors

CASES: dict[str, tuple[Op, int, dict[str, Any]]] = {
    "average": (averages.average, 2, {"beta": 0.9}),
    "accumulate": (averages.accumulate, 2, {"beta": 0.9}),
    "average_square": (averages.average_square, 2, {"beta": 0.99}),
    "add_square": (averages.add_square, 2, {}),
    "blend": (averages.blend, 2, {"beta": 0.9}),
    "lookahead": (averages.lookahead, 2, {"beta": 0.9}),
}


@pytest.mark.parametrize("name", CASES)
def test_twins_agree(name: str) -> None:
    op, count, options = CASES[name]
    reads = [tensors(5, seed) for seed in range(count)]
    expected = [op.plain(*row, **options) for row in zip(*reads, strict=True)]
    assert_twins_agree(op, reads, expected, **options)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_unbiased_averages_are_averages_over_the_sum_of_their_weights(beta: float) -> None:
    xs = [tensors(2, seed) for seed in range(4)]
    biased, state, squares = ([torch.zeros_like(x) for x in xs[0]] for _ in range(3))
    for k, x in enumerate(xs, 1):
        steps = [torch.tensor(float(k))] * 2
        biased = [averages.average(m, new, beta=beta) for m, new in zip(biased, x, strict=True)]
        expected = [m / (1 - beta**k) for m in biased]
        assert_twins_agree(averages.unbiased_average, [state, x, steps], expected, beta=beta)
        for s, new in zip(squares, x, strict=True):
            s.copy_(averages.unbiased_average_square(s, new, steps[0], beta=beta))
    weights = torch.tensor([(1 - beta) * beta ** (3 - k) for k in range(4)]).double()
    stacked = torch.stack([x[0] ** 2 for x in xs])
    mean = torch.tensordot(weights / weights.sum(), stacked, 1)
    torch.testing.assert_close(squares[0], mean)


def test_costs_count_entries() -> None:
    assert averages.average.cost((10, 10), 4, beta=0.9) == Cost(300, 1200)
