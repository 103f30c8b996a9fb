"""Any norm on any manifold: feasible always, certified near the best, equal to closed forms."""

from statistics import median

import pytest
import torch
from directions import direction, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.duality import certify
from modula.duality.rules.solvers.general import steepest_tangent
from modula.manifolds import Manifold, Oblique, Sphere, Stiefel
from modula.manifolds.implicit import Implicit
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.transposed import Transposed
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.norms import (
    L1,
    L2,
    RMS,
    Columns,
    FromDual,
    Max,
    Norm,
    Nuclear,
    RMSToRMS,
    Rows,
    Spectral,
)

NORMS: list[Norm] = [
    L1(2),
    Max(2),
    RMS(2),
    Spectral(),
    Nuclear(),
    Rows(RMS()),
    Rows(Max()),
    Columns(L1()),
    2.0 * RMSToRMS(),
    Spectral().on("o i -> i o"),
]
HYPERPLANES: list[Manifold] = [Sphere(ndim=2), SpectralSphere(radius=2.0)]
MANIFOLDS: list[Manifold] = [
    Oblique("rows"),
    Oblique("columns"),
    Stiefel(),
    UnitConditionNumber(),
    Transposed(Oblique("columns")),
]
SHAPES = [(6, 4), (5, 5), (7, 3), (4, 1)]
POLAR = (Spectral, type(2.0 * RMSToRMS()))  # on Stiefel: another rule, of matrix polynomials


def gaps(norm: Norm, manifold: Manifold, tolerance: float) -> list[float]:
    """The certified gap of each shape and draw; what must hold exactly is asserted."""
    found = []
    for seed, shape in enumerate(SHAPES):
        weight, gradient = draw(manifold, shape, seed, decades=2 * (seed % 2))
        d = direction(norm, manifold, weight, gradient)
        certificate = certify(norm, manifold, weight, gradient, d)
        assert certificate.tangency < 1e-9
        assert certificate.norm <= 1 + tolerance
        assert certificate.gap >= 0
        found.append(certificate.gap)
    return found


@pytest.mark.parametrize("manifold", HYPERPLANES, ids=str)
@pytest.mark.parametrize("norm", [*NORMS, L2(2)], ids=str)
def test_one_linear_constraint_is_solved_to_the_optimum(norm: Norm, manifold: Manifold) -> None:
    assert max(gaps(norm, manifold, 1e-9)) < 1e-5


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_every_pair_is_feasible_and_certified_near_the_best(norm: Norm, manifold: Manifold) -> None:
    by_polynomials = isinstance(manifold, Stiefel | UnitConditionNumber) and isinstance(norm, POLAR)
    found = gaps(norm, manifold, 1e-6 if by_polynomials else 1e-9)
    assert max(found) < 0.01
    assert median(found) < 0.005


@pytest.mark.parametrize("norm", [Max(2), Spectral(), Rows(RMS()), 2.0 * RMSToRMS()], ids=str)
@pytest.mark.parametrize("manifold", [Sphere(ndim=2), Oblique("columns"), Stiefel()], ids=str)
def test_the_solver_beats_projecting_the_duality_map(norm: Norm, manifold: Manifold) -> None:
    weight, gradient = draw(manifold, (8, 5), 3)
    d = direction(norm, manifold, weight, gradient)
    naive = manifold.to_tangent(weight, norm.duality_map(manifold.to_tangent(weight, gradient)))
    assert (gradient * d).sum() >= (gradient * naive / norm(naive)).sum() - 1e-9


def test_the_generic_solver_finds_the_stiefel_optimum_that_is_not_orthonormal() -> None:
    weight = torch.eye(3, 2, dtype=torch.float64)
    gradient = torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 2.0]], dtype=torch.float64)
    tangent = Stiefel().to_tangent(weight, gradient)
    found = steepest_tangent(Spectral(), Stiefel(), weight, tangent, rounds=200)
    expected = torch.tensor(
        [[0.0, 0.872872], [-0.872872, 0.0], [0.218218, 0.436436]], dtype=torch.float64
    )
    assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("manifold", [Sphere(ndim=2), Oblique("rows"), Stiefel()], ids=str)
@pytest.mark.parametrize("norm", [L2(2), RMS(2)], ids=str)
def test_euclidean_lengths_agree_with_the_riemannian_gradient(
    norm: Norm, manifold: Manifold
) -> None:
    weight, gradient = draw(manifold, (6, 4), 5)
    tangent = manifold.to_tangent(weight, gradient)
    closed = direction(norm, manifold, weight, gradient)
    assert_close(steepest_tangent(norm, manifold, weight, tangent), closed)


def test_rows_on_their_own_spheres_agree_with_the_generic_solver() -> None:
    weight, gradient = draw(Oblique("rows"), (5, 7), 2)
    closed = direction(Rows(Max()), Oblique("rows"), weight, gradient)
    tangent = Oblique("rows").to_tangent(weight, gradient)
    found = steepest_tangent(Rows(Max()), Oblique("rows"), weight, tangent, rounds=500)
    assert float((gradient * found).sum()) == pytest.approx(
        float((gradient * closed).sum()), rel=1e-4
    )


def test_spectral_on_stiefel_agrees_with_its_own_rule() -> None:
    weight, gradient = draw(Stiefel(), (16, 6), 1)
    special = direction(Spectral(), Stiefel(), weight, gradient)
    tangent = Stiefel().to_tangent(weight, gradient)
    found = steepest_tangent(Spectral(), Stiefel(), weight, tangent)
    assert float((gradient * found).sum()) == pytest.approx(
        float((gradient * special).sum()), rel=5e-3
    )


@pytest.mark.parametrize("manifold", [*HYPERPLANES, *MANIFOLDS], ids=str)
@pytest.mark.parametrize("norm", [L1(2), Spectral(), Rows(Max())], ids=str)
def test_a_batch_is_a_loop(norm: Norm, manifold: Manifold) -> None:
    pairs = [draw(manifold, (6, 4), seed) for seed in range(2)]
    weights, gradients = (torch.stack(list(x)) for x in zip(*pairs, strict=True))
    gradients[1] *= 1e3
    at_once = direction(norm, manifold, weights, gradients)
    one_by_one = [direction(norm, manifold, w, g) for w, g in zip(weights, gradients, strict=True)]
    assert_close(at_once, torch.stack(one_by_one), rtol=0, atol=1e-8)


@pytest.mark.parametrize("manifold", [*HYPERPLANES, *MANIFOLDS], ids=str)
@pytest.mark.parametrize("norm", [L1(2), Nuclear(), Rows(Max()), 2.0 * RMSToRMS()], ids=str)
def test_nothing_to_follow_is_no_step(norm: Norm, manifold: Manifold) -> None:
    weight, _ = draw(manifold, (6, 4), 0)
    zero = torch.zeros_like(weight)
    assert torch.equal(direction(norm, manifold, weight, zero), zero)


@pytest.mark.parametrize("manifold", [Sphere(ndim=2), Oblique("columns")], ids=str)
@pytest.mark.parametrize("norm", [Max(2), Spectral(), Rows(L1())], ids=str)
def test_a_gradient_normal_to_the_manifold_is_no_step(norm: Norm, manifold: Manifold) -> None:
    weight, _ = draw(manifold, (6, 4), 0)
    found = direction(norm, manifold, weight.float(), 7 * weight.float())
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("manifold", [*HYPERPLANES, *MANIFOLDS], ids=str)
@pytest.mark.parametrize("norm", [L1(2), Max(2), Spectral(), Nuclear(), Rows(RMS())], ids=str)
def test_float32_is_as_good(norm: Norm, manifold: Manifold) -> None:
    weight, gradient = draw(manifold, (6, 4), 4)
    found = direction(norm, manifold, weight.float(), 1e-3 * gradient.float())
    exact = direction(norm, manifold, weight, gradient)
    assert found.dtype == torch.float32
    off = found.double() - manifold.to_tangent(weight, found.double())
    assert off.abs().max() < 1e-5 * found.abs().max()
    assert norm(found) <= 1 + 1e-5
    assert (gradient * found).sum() >= 0.98 * (gradient * exact).sum()


@pytest.mark.parametrize("manifold", [SpectralSphere(), Stiefel(), Oblique("columns")], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_gradient_does_not_matter(manifold: Manifold, scale: float) -> None:
    weight, gradient = (x.float() for x in draw(manifold, (6, 4), 6))
    once, scaled = (direction(Max(2), manifold, weight, c * gradient) for c in (1.0, scale))
    assert_close(scaled, once, rtol=0, atol=1e-2)  # 50 rounds magnify the rounding of the scale


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 5), more=st.integers(0, 3))
def test_no_random_tangent_gains_more_than_the_gap_allows(
    seed: int, columns: int, more: int
) -> None:
    manifold, norm = Stiefel(), Max(2)
    weight, gradient = draw(manifold, (columns + more, columns), seed)
    d = direction(norm, manifold, weight, gradient)
    best = (gradient * d).sum() / (1 - certify(norm, manifold, weight, gradient, d).gap)
    generator = torch.Generator().manual_seed(seed)
    others = torch.randn(200, *weight.shape, dtype=torch.float64, generator=generator)
    others = manifold.to_tangent(weight, others + 3 * d)
    gains = (gradient * others).sum((-2, -1))
    assert bool((gains <= best * norm(others) + 1e-9).all())


def nuclear_and_more(g: Tensor) -> Tensor:
    """The dual of a norm that nobody has named."""
    return torch.linalg.matrix_norm(g, ord="nuc") + torch.linalg.vector_norm(g)


def orthonormal(w: Tensor) -> Tensor:
    return w.T @ w - torch.eye(w.shape[1], dtype=w.dtype)


@pytest.mark.parametrize("manifold", [Sphere(ndim=2), Stiefel(), Implicit(orthonormal)], ids=str)
def test_a_norm_without_projection_is_served_by_its_duality_map(manifold: Manifold) -> None:
    norm = FromDual(nuclear_and_more)
    weight, gradient = draw(manifold, (6, 4), 7)
    certificate = certify(
        norm, manifold, weight, gradient, direction(norm, manifold, weight, gradient)
    )
    assert certificate.tangency < 1e-9
    assert certificate.norm <= 1 + 1e-3  # to which the value of such a norm is known
    assert -1e-3 <= certificate.gap < 0.02
