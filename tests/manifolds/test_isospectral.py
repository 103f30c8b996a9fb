"""Isospectral against the span of its tangents; charts of rotations against autograd and limits."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds import Cayley, CayleyNeumann, Isospectral, Rotations
from modula.manifolds.rotations import Chart

SPECTRA = [(3.0, 2.0, 1.0), (2.0, 2.0, 1.0), (3.0, 1.0, 1.0), (2.0, 2.0, 2.0), (2.0, 1.0), (2.0,)]
every_chart = pytest.mark.parametrize("chart", [Cayley(), CayleyNeumann(), CayleyNeumann(1)])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def skew_basis(size: int) -> list[Tensor]:
    """E_ij - E_ji for i < j."""
    basis = []
    for i in range(size):
        for j in range(i):
            x = torch.zeros(size, size, dtype=torch.float64)
            x[i, j], x[j, i] = 1.0, -1.0
            basis.append(x)
    return basis


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (3, 5), (4, 4)], ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
def test_the_tangents_are_what_skew_matrices_make_from_both_sides(
    spectrum: tuple[float, ...], shape: tuple[int, int]
) -> None:
    """to_tangent against least squares on the span of all Omega_L W and W Omega_R."""
    manifold = Isospectral(spectrum)
    weight, vector = manifold.project(draw(*shape)), draw(*shape, seed=1)
    span = [a @ weight for a in skew_basis(shape[0])] + [weight @ b for b in skew_basis(shape[1])]
    columns = torch.stack([t.flatten() for t in span], 1)
    fit = torch.linalg.pinv(columns, rtol=1e-10) @ vector.flatten()
    expected = (columns @ fit).view(shape)
    assert_close(manifold.to_tangent(weight, vector), expected, rtol=0, atol=1e-9)
    assert_close(Isospectral().to_tangent(weight, vector), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 6), (7, 4), (4, 7)], ids=str)
def test_singular_values_stay(shape: tuple[int, int]) -> None:
    weight, manifold = draw(*shape), Isospectral()
    before = torch.linalg.svdvals(weight)
    named = Isospectral(tuple(before.tolist()))
    for seed in range(5):
        step = 0.3 * manifold.to_tangent(weight, draw(*shape, seed=seed))
        assert_close(manifold.retract(weight, step), named.retract(weight, step))
        weight = manifold.retract(weight, step)
    assert_close(torch.linalg.svdvals(weight), before, rtol=0, atol=1e-13)
    assert named.residual(weight) < 1e-13
    assert float(named.residual(2 * weight)) == pytest.approx(1.0)


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Isospectral(()), "falling order, the first above 0"),
        (lambda: Isospectral((0.0,)), "the first above 0"),
        (lambda: Isospectral((1.0, 2.0)), "in falling order"),
        (lambda: Isospectral((1.0, -2.0)), "in falling order"),
        (lambda: Isospectral((float("inf"),)), "finite singular values"),
        (lambda: Isospectral((3.0, 2.0, 1.0)).check_shape((2, 5)), "2 singular values: give that"),
        (lambda: Rotations(block=1), "block >= 2 and every >= 1, got 1 and 200"),
        (lambda: Rotations(every=0), "block >= 2 and every >= 1, got 256 and 0"),
        (lambda: CayleyNeumann(0), "at least one term, got 0"),
    ],
)
def test_what_makes_no_sense_gets_one_clear_sentence(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
