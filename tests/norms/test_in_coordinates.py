"""Norms measured in other coordinates: duals, duality maps, and what sees no coordinates."""

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from linear_maps import SHAPE, draw, every_map, invertible
from modula.norms import (
    L1,
    Frobenius,
    InCoordinates,
    LinearChain,
    Max,
    Norm,
    Quadratic,
    Spectral,
)
from modula.norms.maps.linear import (
    Along,
)
from strategies import seeds


def _power(x: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(x)
    return (vectors * values**power) @ vectors.mT


@pytest.mark.parametrize("norm", [Frobenius(), Spectral(), Max(2), L1(2)], ids=str)
@given(seed=seeds())
def test_a_norm_in_coordinates_has_its_dual_and_its_duality_map(norm: Norm, seed: int) -> None:
    seed = seed % 2**30
    g, other = draw(*SHAPE, seed=seed), draw(*SHAPE, seed=seed + 1)
    for each in every_map(seed):
        measured = InCoordinates(norm, each)
        steepest = measured.duality_map(g)
        one = torch.ones((), dtype=g.dtype)
        assert_close(measured(steepest), one, rtol=1e-6, atol=0)
        assert_close((g * steepest).sum(), measured.dual(g), rtol=1e-6, atol=1e-9)
        assert (g * other).sum() <= measured.dual(g) * measured(other) * (1 + 1e-9)


@given(seed=seeds())
def test_a_quadratic_form_is_the_euclidean_length_in_its_roots_coordinates(seed: int) -> None:
    seed = seed % 2**30
    rows, columns = (x @ x.mT for x in (invertible(6, seed), invertible(4, seed + 1)))
    form = LinearChain((Along(rows, -2), Along(columns, -1)))
    roots = LinearChain((Along(_power(rows, 0.5), -2), Along(_power(columns, 0.5), -1)))
    ours, expected = Quadratic(form), InCoordinates(Frobenius(), roots)
    x = draw(2, *SHAPE, seed=seed + 2)
    for ask in ("__call__", "dual", "duality_map"):
        assert_close(getattr(ours, ask)(x), getattr(expected, ask)(x), rtol=1e-6, atol=1e-9)


def test_the_natural_gradient_sees_no_coordinates() -> None:
    """W' = P W Q: with p = 1 and S' = P^-T S P^-1 the direction moves along; not so with 1/2."""
    p, q = invertible(6, 3), invertible(4, 4)
    rows, columns = (x @ x.mT for x in (invertible(6, 5), invertible(4, 6)))
    g = draw(*SHAPE, seed=7)
    moved = torch.linalg.inv(p).mT @ g @ torch.linalg.inv(q).mT
    rows_moved = torch.linalg.inv(p).mT @ rows @ torch.linalg.inv(p)
    columns_moved = torch.linalg.inv(q) @ columns @ torch.linalg.inv(q).mT

    def step(a: Tensor, b: Tensor, gradient: Tensor, power: float) -> Tensor:
        roots = [_power(a, power / 2), _power(b, power / 2)]
        chain = LinearChain((Along(roots[0], -2), Along(roots[1], -1)))
        return InCoordinates(Spectral(), chain).duality_map(gradient)

    for power, same in ((1.0, True), (0.5, False)):
        ours = step(rows_moved, columns_moved, moved, power)
        expected = p @ step(rows, columns, g, power) @ q
        assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-9) is same
