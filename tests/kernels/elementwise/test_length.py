"""Lengths, and tensors brought to a length, at every scale."""

import pytest
import torch
from torch.testing import assert_close

from modula.kernels.elementwise import length
from modula.kernels.elementwise.length import normalise, normalise_columns, normalise_rows
from modula.kernels.op import Locality


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


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_normalised_lengths_are_one_at_every_scale(scale: float) -> None:
    x = scale * torch.randn(2, 3, 4)
    x[0, 1] = 0.0
    lengths = normalise_rows(x).norm(dim=-1)
    torch.testing.assert_close(lengths, (x != 0).any(-1).float())
    torch.testing.assert_close(normalise_columns(x).norm(dim=-2), torch.ones(2, 4))
    torch.testing.assert_close(normalise(x, ndim=2).flatten(1).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(normalise(0 * x, ndim=2), 0 * x, rtol=0, atol=0)


def test_locality_says_what_is_divided() -> None:
    assert normalise_rows.locality is Locality.ROWS
    assert normalise_columns.locality is Locality.COLUMNS
    assert normalise.locality is Locality.WHOLE
