"""Lengths, and decay entry by entry: each op against its formula, both twins."""

import torch
from torch.testing import assert_close

from modula.kernels.elementwise import decay, length

LR = torch.tensor(0.3, dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_lengths_are_of_each_weight_of_a_stack() -> None:
    x, to = draw(5, 4, 3), draw(5, 1, 1, seed=1).abs()
    own = x.flatten(1).norm(dim=1)[:, None, None]
    assert_close(length.length(x, ndim=2), own)
    assert_close(length.at_length(x, to, ndim=2), x * to / own)
    limited = length.limit_length(x, limit=3.0, ndim=2)
    assert_close(limited, torch.where(own > 3.0, 3.0 * x / own, x))
    assert (own > 3.0).any() and (own < 3.0).any()


def test_lengths_hold_where_squares_leave_float32() -> None:
    for size in (1e-30, 1e30):
        x = torch.full((2, 2), size)
        assert_close(length.at_length(x, torch.ones(1, 1), ndim=2), torch.full((2, 2), 0.5))
        assert length.length(x, ndim=2).isfinite().all()
    assert not length.at_length(torch.zeros(2, 2), torch.ones(1, 1), ndim=2).any()


def test_row_moments_average_the_mean_square_of_each_row() -> None:
    moment, x = draw(2, 4, seed=1).abs(), draw(2, 4, 3, 2)
    found = length.average_row_square(moment, x, beta=0.9)
    assert_close(found, 0.9 * moment + 0.1 * (x**2).mean((-1, -2)))
    assert_close(length.over_root(x, moment), x / moment[..., None, None].sqrt())
    assert not length.over_root(torch.zeros(2, 2), torch.zeros(2)).any()


def test_decay_in_both_twins() -> None:
    weights, others = [draw(3, 2), draw(4)], [draw(3, 2, seed=1), draw(4, seed=1)]
    scales = [1.0, 0.5]
    rows = list(zip(weights, others, scales, strict=True))
    added = [x + s * 0.2 * w for w, x, s in rows]
    assert decay.add_decay.foreach is not None and decay.cautious_decay.foreach is not None
    assert_close(decay.add_decay.foreach(others, weights, rate=0.2, scale=scales), added)
    assert_close([decay.add_decay(x, w, rate=0.2, scale=s) for w, x, s in rows], added)
    shrunk = [torch.where(w * x > 0, (1 - 0.3 * s * 0.2) * w, w) for w, x, s in rows]
    plain = [decay.cautious_decay(w, x, LR, rate=0.2, scale=s) for w, x, s in rows]
    assert_close(plain, shrunk)
    own = [w.clone() for w in weights]
    assert_close(decay.cautious_decay.foreach(own, others, LR, rate=0.2, scale=scales), shrunk)
    assert_close(own, shrunk)
