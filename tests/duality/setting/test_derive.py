"""Every derived direction is held to its definition, and certified."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import modula.norms as norms
from modula.duality import (
    Average,
    NoRule,
    Setting,
    Sharp,
    ShortStep,
    certify,
    derive,
    derives,
    program_of,
)
from modula.duality.declaration.declaration import Declaration
from modula.kernels.spectral.polar import exact_polar
from modula.manifolds import Euclidean, Manifold, Oblique, Sphere, Stiefel
from modula.manifolds.transposed import Transposed
from modula.norms import L1, L2, RMS, Columns, Frobenius, Max, Norm, Nuclear, RMSToRMS, Rows
from strategies import matrices

EVERY_NORM: list[Norm] = [
    L1(2),
    L2(2),
    RMS(2),
    Max(2),
    norms.RMSDual(2),
    Frobenius(),
    norms.Spectral(),
    RMSToRMS(),
    norms.Spectral(L2(), RMS()),
    Nuclear(),
    Rows(RMS()),
    Rows(L1()),
    Rows(norms.RMSDual()),
    Columns(RMS()),
    Columns(Max()),
    3.0 * RMSToRMS(),
    Rows(RMS()).on("o i -> i o"),
    RMSToRMS().on("o i -> i o"),
]
CLOSED_FORMS: list[tuple[Norm, Manifold]] = [
    (Frobenius(), Sphere(ndim=2)),
    (RMS(2), Sphere(radius=2.0, ndim=2)),
    (Frobenius(), Oblique("rows")),
    (Frobenius(), Stiefel()),
    (Rows(RMS()), Oblique("rows")),
    (Rows(L2()), Oblique("rows", radius=3.0)),
    (Columns(RMS()), Oblique("columns")),
]


def direction(setting: Setting, weight: Tensor, gradient: Tensor) -> Tensor:
    """D, by the plain twins, in float64."""
    derived = derive(setting, weight.shape)
    tensors = {"query": gradient, "weight": weight}
    for each in derived.lines:
        reads = (tensors[name] for name in each.reads)
        tensors[each.result] = each.op.plain(*reads, **each.values())
    return derived.scale * tensors[derived.direction]


@pytest.mark.parametrize("norm", EVERY_NORM, ids=str)
@given(gradient=matrices())
def test_without_a_constraint_the_direction_attains_the_dual_norm(
    norm: Norm, gradient: Tensor
) -> None:
    found = direction(Setting(norm), torch.zeros_like(gradient), gradient)
    certificate = certify(norm, Euclidean(), torch.zeros_like(gradient), gradient, found)
    # Matrix polynomials stop a little short of the exact polar factor; the rest is exact.
    is_polar = isinstance(norm, norms.Spectral) or "RMSToRMS" in str(norm)
    tolerance = 0.15 if is_polar else 1e-9
    assert certificate.tangency == 0
    assert certificate.norm <= 1 + tolerance
    assert -1e-12 <= certificate.gap <= tolerance


@pytest.mark.parametrize(("norm", "manifold"), CLOSED_FORMS, ids=str)
@given(point=matrices(tall=True), seed=st.integers(0, 2**32 - 1))
def test_closed_forms_on_manifolds_have_no_gap(
    norm: Norm, manifold: Manifold, point: Tensor, seed: int
) -> None:
    weight = manifold.project(point)
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    certificate = certify(
        norm, manifold, weight, gradient, direction(Setting(norm, manifold), weight, gradient)
    )
    assert certificate.norm <= 1 + 1e-9
    assert certificate.tangency <= 1e-7
    assert -1e-12 <= certificate.gap <= 1e-9


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_square_orthogonal_weights_have_a_closed_form(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    draws = torch.randn(2, size, size, generator=generator, dtype=torch.float64)
    weight, gradient = exact_polar(draws[0]), draws[1]
    found = direction(Setting(RMSToRMS(), Stiefel()), weight, gradient)
    certificate = certify(RMSToRMS(), Stiefel(), weight, gradient, found)
    assert certificate.tangency < 1e-9
    assert certificate.norm <= 1.13  # of the polynomial polar factor
    assert -1e-12 <= certificate.gap < 0.1


@pytest.mark.parametrize("shape", [(64, 32), (33, 16), (21, 16), (12, 3)], ids=str)
def test_tall_stiefel_is_certified_near_the_optimum(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    weight, gradient = exact_polar(draws[0]), draws[1]
    found = direction(Setting(RMSToRMS(), Stiefel()), weight, gradient)
    certificate = certify(RMSToRMS(), Stiefel(), weight, gradient, found)
    assert certificate.tangency < 1e-9
    assert certificate.norm <= 1 + 1e-9
    assert -1e-12 <= certificate.gap < 0.1


def test_the_certificate_sees_a_wrong_direction() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    weight = torch.zeros(2, 2)
    best = RMSToRMS().duality_map(gradient)
    gap = [
        certify(RMSToRMS(), Euclidean(), weight, gradient, d).gap for d in (best, best.mT, -best)
    ]
    assert gap[0] < 1e-6
    assert gap[1] > 0.1
    assert gap[2] == pytest.approx(2.0, abs=1e-6)
    assert certify(RMSToRMS(), Euclidean(), weight, gradient, 3 * best).norm == pytest.approx(3.0)
    assert (
        certify(Frobenius(), Sphere(ndim=2), torch.eye(2) / 2**0.5, gradient, gradient).tangency
        > 0.1
    )


def test_certify_refuses_unequal_shapes() -> None:
    with pytest.raises(ValueError, match=r"of one shape; got \(2, 2\), \(2, 3\), \(2, 2\)"):
        certify(RMSToRMS(), Euclidean(), torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(2, 2))


@given(gradient=matrices())
def test_sharp_is_the_unit_direction_times_the_dual_norm(gradient: Tensor) -> None:
    norm = Rows(RMS())
    sharp = direction(Setting(norm, potential=Sharp()), torch.zeros_like(gradient), gradient)
    torch.testing.assert_close(sharp, norm.dual(gradient) * norm.duality_map(gradient))


def test_gradient_descent_is_the_sharp_step_of_the_frobenius_norm() -> None:
    gradient = torch.randn(3, 4)
    setting = Setting(Frobenius(), potential=Sharp())
    torch.testing.assert_close(direction(setting, gradient, gradient), gradient, rtol=0, atol=0)


def test_a_missing_rule_names_the_weight_and_the_cure() -> None:
    setting = Setting(Max(2), Stiefel(), potential=ShortStep())
    with pytest.raises(NoRule) as error:
        derive(setting, (6, 4), "blocks.0.q.weight")
    text = str(error.value)
    assert "blocks.0.q.weight (6, 4)" in text
    assert "norm Max(), manifold Stiefel()" in text
    assert "@derives(Max, Stiefel, potential=ShortStep)" in text
    with pytest.raises(NoRule) as error:
        derive(Setting(Max(2), Stiefel(), norms.Diagonal(), ShortStep()), (6, 4))
    assert "@derives(Max, Stiefel, metric=Diagonal, potential=ShortStep)" in str(error.value)


def test_a_wide_stiefel_weight_says_to_transpose() -> None:
    with pytest.raises(ValueError, match="transpose"):
        derive(Setting(RMSToRMS(), Stiefel()), (4, 6))


def test_a_rule_is_registered_once() -> None:
    with pytest.raises(ValueError, match="already has a rule"):
        derives(norms.Spectral)(lambda setting, shape: derive(setting, shape))


def test_budget_and_unit_radius_multiply_into_the_step() -> None:
    declaration = Declaration(Setting(RMSToRMS(), momentum=Average()), budget=0.25)
    step = program_of(declaration, (32, 8)).update[-1]
    assert step.values()["scale"] == pytest.approx(0.25 * 2.0)


def test_a_gradient_normal_to_the_manifold_moves_nothing() -> None:
    point = Oblique("rows").project(torch.randn(5, 1))
    found = direction(Setting(Rows(RMS()), Oblique("rows")), point, torch.randn(5, 1))
    torch.testing.assert_close(found, torch.zeros(5, 1), rtol=0, atol=0)
    weight = Sphere(ndim=2).project(torch.randn(4, 4))
    found = direction(Setting(Frobenius(), Sphere(ndim=2)), weight, 7 * weight)
    torch.testing.assert_close(found, torch.zeros(4, 4), rtol=0, atol=0)


@pytest.mark.parametrize("norm", [RMSToRMS(), Frobenius()], ids=str)
def test_wide_weights_are_derived_transposed(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = exact_polar(torch.randn(4, 9, generator=generator, dtype=torch.float64))
    gradient = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    wide, tall = Transposed(Stiefel()), Stiefel()
    found = direction(Setting(norm, wide), weight, gradient)
    certificate = certify(norm, wide, weight, gradient, found)
    assert 0.999 < certificate.norm <= 1 + 1e-9
    assert certificate.tangency < 1e-9
    # The tall problem is the same one, up to the unit radius of the norm.
    same = direction(Setting(norms.Spectral(), tall), weight.mT, gradient.mT)
    if isinstance(norm, norms.Spectral):
        torch.testing.assert_close(found, norm.unit_radius((4, 9)) * same.mT)


def test_a_multiple_of_a_norm_moves_less_on_any_manifold() -> None:
    weight = Sphere(ndim=2).project(torch.randn(4, 3))
    gradient = torch.randn(4, 3)
    once = direction(Setting(Frobenius(), Sphere(ndim=2)), weight, gradient)
    half = direction(Setting(2.0 * Frobenius(), Sphere(ndim=2)), weight, gradient)
    torch.testing.assert_close(2 * half, once)


def test_a_rule_for_what_is_no_type_is_refused_and_leaves_the_table_alone() -> None:
    with pytest.raises(ValueError, match="@derives takes types, such as Spectral or Stiefel; got"):
        derives(norms.RMSToRMS)  # type: ignore[arg-type]  # a function that makes a Spectral
    assert derive(Setting(RMSToRMS()), (3, 2)).lines
