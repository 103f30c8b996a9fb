"""Rotations of rows and columns: Cayley maps, coordinates, permutations."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds import Cayley, CayleyNeumann, Rotations
from modula.manifolds.rotations import Chart

every_chart = pytest.mark.parametrize("chart", [Cayley(), CayleyNeumann(), CayleyNeumann(1)])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [2, 5, 16])
@pytest.mark.parametrize("length", [0.1, 1.0, 100.0])
def test_cayley_is_orthogonal_to_rounding(size: int, length: float) -> None:
    x = draw(3, size, size)
    r = Cayley().rotation(length * (x - x.mT))
    eye = torch.eye(size, dtype=torch.float64)
    assert (r.mT @ r - eye).abs().max() < 2e-15 * (size + length)
    assert (torch.linalg.det(r) - 1).abs().max() < 1e-12
    assert torch.equal(Cayley().rotation(0 * x), eye.expand(3, -1, -1))


@pytest.mark.parametrize("terms", [1, 2, 4])
def test_cayley_neumann_is_orthogonal_up_to_the_next_power(terms: int) -> None:
    x = draw(5, 5)
    x = 0.05 * (x - x.mT) / torch.linalg.matrix_norm(x - x.mT, ord=2)
    eye, chart = torch.eye(5, dtype=torch.float64), CayleyNeumann(terms)
    errors = []
    for length in (1.0, 0.5):
        r = chart.rotation(length * x)
        errors.append((r.mT @ r - eye).norm())
        assert (r - Cayley().rotation(length * x)).norm() <= 5 * (length * 0.05) ** (terms + 1)
    # R^T R is even in X, so that an odd next power shows up one later.
    power = terms + 1 + (terms + 1) % 2
    assert float(torch.log2(errors[0] / errors[1])) == pytest.approx(power, abs=0.05)


@every_chart
@pytest.mark.parametrize("shape", [(6, 6), (7, 5), (4, 9)], ids=str)
@pytest.mark.parametrize("block", [3, 256])
def test_the_gradient_in_the_coordinates_is_autograds(
    chart: Chart, shape: tuple[int, int], block: int
) -> None:
    rotations = Rotations(block, chart=chart)
    order, base = rotations.shuffle(shape, 5), draw(*shape)
    side, blocks = rotations.side(shape), sum(rotations.counts(shape))
    above = torch.triu(torch.ones(side, side, dtype=torch.float64), 1)
    # Coordinates as training makes them: nothing where a last block is larger than its rows.
    zero = torch.zeros(blocks, side, side, dtype=torch.float64)
    x = rotations.pull_back(draw(*shape, seed=1), base, order, zero)
    upper = (0.3 * above * x / x.abs().max()).requires_grad_()
    w = rotations.turn(base, order, upper - upper.mT)
    loss = (w**3).sum()
    (gradient,) = torch.autograd.grad(loss, w, retain_graph=True)
    (expected,) = torch.autograd.grad(loss, upper)
    found = rotations.pull_back(gradient, base, order, (upper - upper.mT).detach())
    assert_close(found * above, expected * above, rtol=0, atol=1e-11)
    assert_close(found, -found.mT)


@pytest.mark.parametrize("shape", [(6, 6), (7, 5), (4, 9), (1, 3)], ids=str)
def test_a_turn_is_a_rotation_of_the_rows_and_one_of_the_columns(shape: tuple[int, int]) -> None:
    rotations = Rotations(3)
    order, base = rotations.shuffle(shape, 0), draw(*shape)
    zero = torch.zeros(sum(rotations.counts(shape)), 3, 3, dtype=torch.float64)
    assert torch.equal(rotations.turn(base, order, zero), base)
    x = rotations.pull_back(draw(*shape, seed=2), base, order, zero)
    turned = rotations.turn(base, order, x)
    assert_close(torch.linalg.svdvals(turned), torch.linalg.svdvals(base), rtol=0, atol=1e-13)
    assert (turned - base).abs().max() > 0.1
    stacked = rotations.turn(*(torch.stack((y, y)) for y in (base, order, x)))
    assert_close(stacked, torch.stack((turned, turned)))


def test_permutations_are_drawn_from_the_seed() -> None:
    rotations = Rotations(4)
    rows, columns = rotations.shuffle((6, 4), 1).split((8, 4))
    assert sorted(rows.tolist()) == [*range(8)]
    assert rows[6:].tolist() == [6, 7]
    assert sorted(columns.tolist()) == [*range(4)]
    assert torch.equal(rotations.shuffle((6, 4), 1), rotations.shuffle((6, 4), 1))
    assert not torch.equal(rotations.shuffle((64, 4), 1), rotations.shuffle((64, 4), 2))
