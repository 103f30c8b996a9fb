"""Isospectral against the span of its tangents; charts of rotations against autograd and limits."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds import CayleyNeumann, Isospectral, Rotations

SPECTRA = [(3.0, 2.0, 1.0), (2.0, 2.0, 1.0), (3.0, 1.0, 1.0), (2.0, 2.0, 2.0), (2.0, 1.0), (2.0,)]


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
