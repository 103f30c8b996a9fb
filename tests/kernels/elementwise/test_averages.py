"""The elementwise ops: each twin over lists does what the plain one says, in place where named."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modula.kernels.elementwise import averages, decay, update
from modula.kernels.elementwise.normalise import normalise, normalise_columns, normalise_rows
from modula.kernels.elementwise.whiten import whiten
from modula.kernels.op import Cost, Locality, Op

LR = torch.tensor(0.3, dtype=torch.float64)
CASES: dict[str, tuple[Op, int, dict[str, Any]]] = {
    "average": (averages.average, 2, {"beta": 0.9}),
    "accumulate": (averages.accumulate, 2, {"beta": 0.9}),
    "average_square": (averages.average_square, 2, {"beta": 0.99}),
    "add_square": (averages.add_square, 2, {}),
    "blend": (averages.blend, 2, {"beta": 0.9}),
    "lookahead": (averages.lookahead, 2, {"beta": 0.9}),
    "count": (update.count, 1, {}),
    "sign": (update.sign, 1, {}),
}


def tensors(count: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3 + k, 4, generator=generator, dtype=dtype) for k in range(count)]


def assert_twins_agree(op: Op, reads: list[list[Tensor]], expected: list[Tensor], **o: Any) -> None:
    assert op.foreach is not None
    kept = [[x.clone() for x in read] for read in reads]
    found = op.foreach(*reads, **o)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    written = [found] if op.writes_first else []
    after = [*written, *kept[len(written) :]]
    torch.testing.assert_close(reads, after, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_twins_agree(name: str) -> None:
    op, count, options = CASES[name]
    reads = [tensors(5, seed) for seed in range(count)]
    expected = [op.plain(*row, **options) for row in zip(*reads, strict=True)]
    assert_twins_agree(op, reads, expected, **options)


def test_step_and_decay_take_one_scale_a_weight() -> None:
    weights, directions, scales = tensors(3, 0), tensors(3, 1), [1.0, 0.5, 0.25]
    stepped = [w - 0.3 * s * d for w, d, s in zip(weights, directions, scales, strict=True)]
    decayed = [w * (1 - 0.3 * s * 0.1) for w, s in zip(weights, scales, strict=True)]
    for found, want in (
        (update.step.foreach, stepped),
        (lambda w, _, lr, scale: decay.decay_foreach_(w, lr, rate=0.1, scale=scale), decayed),
    ):
        assert found is not None
        own = [w.clone() for w in weights]
        torch.testing.assert_close(found(own, directions, LR, scale=scales), want)
        torch.testing.assert_close(own, want)
    plain = update.step(weights[1], directions[1], LR, scale=0.5)
    torch.testing.assert_close(plain, stepped[1])
    torch.testing.assert_close(decay.decay(weights[1], LR, rate=0.1, scale=0.5), decayed[1])


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("floor", [0.0, 1e-8, 1e-3])
def test_whiten_is_adams_quotient(floor: float, power: float) -> None:
    means, squares = tensors(2, 0), [x.square() for x in tensors(2, 1)]
    squares[0][0], means[0][0] = 0.0, 0.0
    options = {"power": power, "floor": floor}
    pairs = list(zip(means, squares, strict=True))
    expected = [(m / (v**power + floor)).nan_to_num(0.0) for m, v in pairs]
    torch.testing.assert_close([whiten(m, v, **options) for m, v in pairs], expected)
    assert_twins_agree(whiten, [means, squares], expected, **options)


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


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_normalised_lengths_are_one_at_every_scale(scale: float) -> None:
    x = scale * torch.randn(2, 3, 4)
    x[0, 1] = 0.0
    lengths = normalise_rows(x).norm(dim=-1)
    torch.testing.assert_close(lengths, (x != 0).any(-1).float())
    torch.testing.assert_close(normalise_columns(x).norm(dim=-2), torch.ones(2, 4))
    torch.testing.assert_close(normalise(x, ndim=2).flatten(1).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(normalise(0 * x, ndim=2), 0 * x, rtol=0, atol=0)


def test_costs_count_entries() -> None:
    assert averages.average.cost((10, 10), 4, beta=0.9) == Cost(300, 1200)
    assert update.step.locality is Locality.ELEMENTWISE
    assert normalise_rows.locality is Locality.ROWS
