"""Any norm on any manifold: feasible always, certified near the best, equal to closed forms."""

from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.duality import Average, NoRule, Program, Setting, Sharp, certify, derive, plan_of
from modula.duality.general import solve, steepest_tangent
from modula.duality.hyperplane import steepest_in_hyperplane
from modula.duality.plan import Declaration
from modula.duality.rules import rule_name
from modula.groups import Group
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
    Frobenius,
    FromDual,
    Max,
    Norm,
    Nuclear,
    RMSToRMS,
    Rows,
    Spectral,
)
from modula.optimizer import SteepestDescent

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


def direction(norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor) -> Tensor:
    """D, by the plain twins."""
    derived = derive(Setting(norm, manifold), weight.shape[-2:])
    return derived.first_direction(weight, gradient)


def draw(
    manifold: Manifold, shape: tuple[int, ...], seed: int, decades: int = 0
) -> tuple[Tensor, Tensor]:
    """A weight and a gradient whose columns span so many decades."""
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    columns = torch.logspace(0, -decades, shape[-1], dtype=torch.float64)
    # Not `project`, which would leave the spectral sphere's largest singular value repeated.
    return manifold.retract(weight, torch.zeros_like(weight)), gradient * columns


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


JUMP = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
DIAGONAL = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))


def test_spectral_sphere_at_a_jump() -> None:
    found = direction(Spectral(), SpectralSphere(2.0), DIAGONAL, JUMP)
    expected = torch.tensor([[0.0, 0.624695], [0.0, 0.780869]], dtype=torch.float64)
    assert_close(found, expected, rtol=0, atol=1e-6)
    assert float((JUMP * found).sum()) == pytest.approx(41**0.5, abs=1e-6)


def test_frobenius_sphere_at_a_jump() -> None:
    found = direction(Spectral(), Sphere(5**0.5, ndim=2), DIAGONAL, JUMP)
    expected = torch.tensor([[-0.329252, 0.752577], [0.376288, 0.658505]], dtype=torch.float64)
    assert_close(found, expected, rtol=0, atol=1e-6)
    assert float((JUMP * found).sum()) == pytest.approx(28.25**0.5, abs=1e-6)


def test_the_generic_solver_finds_the_stiefel_optimum_that_is_not_orthonormal() -> None:
    weight = torch.eye(3, 2, dtype=torch.float64)
    gradient = torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 2.0]], dtype=torch.float64)
    tangent = Stiefel().to_tangent(weight, gradient)
    found = steepest_tangent(Spectral(), Stiefel(), weight, tangent, rounds=200)
    expected = torch.tensor(
        [[0.0, 0.872872], [-0.872872, 0.0], [0.218218, 0.436436]], dtype=torch.float64
    )
    assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_vector_under_the_max_norm_on_the_sphere_by_hand() -> None:
    # W = e1: the tangents have no first entry, so the others take the sign of the gradient.
    weight = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    normal_part = torch.tensor([[5.0, -2.0, 0.1]], dtype=torch.float64)
    gradient = Sphere().to_tangent(weight, normal_part)
    found, least = steepest_in_hyperplane(Max(), weight.expand_as(gradient), gradient)
    assert_close(found, torch.tensor([[0.0, -1.0, 1.0]], dtype=torch.float64))
    assert_close(least, torch.tensor([2.1], dtype=torch.float64))


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


def test_more_special_rules_keep_winning() -> None:
    expected = {
        (Frobenius(), SpectralSphere()): "riemannian_gradient",
        (Spectral(), Stiefel()): "manifold_muon",
        (Rows(RMS()), Oblique("rows")): "oblique_rows",
        (Rows(RMS()), Oblique("columns")): "general_solver",
        (Columns(L1()), Oblique("columns")): "oblique_columns",
        (Max(2), Stiefel()): "general_solver",
        (Max(2), Sphere(ndim=2)): "hyperplane_root",
        (Spectral(), SpectralSphere()): "hyperplane_root",
        (Max(2), Sphere()): "general_solver",  # a sphere for each row: many constraints
    }
    found = {pair: rule_name(Setting(*pair), (6, 4)) for pair in expected}
    assert found == expected


def test_a_plan_names_the_solver() -> None:
    declaration = Declaration(Setting(Max(2), Stiefel(), momentum=Average()))
    row = plan_of([("head.weight", (6, 4), declaration, 4)])["head.weight"]
    assert row.rule == "general_solver"
    assert row.known_as == "Riemannian steepest descent"
    assert str(row.program).splitlines()[1:] == [
        "tangent = to_tangent[Stiefel()](weight, momentum)",
        "solved = splitting[Max(), Stiefel()](weight, tangent, dual)",
        "direction = first(solved)",
        "dual = second(solved)",
        "weight = step(weight, direction, lr, scale=1)",
        "weight = project[Stiefel()](weight)",
    ]


def test_what_still_has_no_rule_says_so() -> None:
    with pytest.raises(NoRule, match="potential Sharp"):
        derive(Setting(Max(2), Stiefel(), potential=Sharp()), (6, 4))


def test_descent_under_the_max_norm_stays_orthonormal_and_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(5, 8, bias=False, dtype=torch.float64)
    target = Stiefel().project(torch.randn(8, 5, dtype=torch.float64, generator=generator))
    with torch.no_grad():
        layer.weight.copy_(Stiefel().project(layer.weight))
    declaration = Declaration(Setting(Max(2), Stiefel()))
    optimizer = SteepestDescent(layer, 0.1, groups=[Group({"weight": declaration})])
    losses = []
    for step in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 60)
        optimizer.zero_grad()
        loss = (layer.weight - target).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
    assert float(Stiefel().residual(layer.weight.detach())) < 1e-9


@pytest.mark.parametrize("norm", [Nuclear(), Spectral()], ids=str)
def test_a_dual_that_is_kept_saves_rounds(norm: Norm) -> None:
    """For the same gradient, at another scale, a later run goes on where the first one stopped."""
    manifold = Oblique("columns")
    weight, gradient = draw(manifold, (6, 4), 3)
    tangent = manifold.to_tangent(weight, gradient)
    dual, gained = None, []
    for scale in (1.0, 1e20, 1e-20):
        found, dual = solve(norm, manifold, weight, scale * tangent, 4, dual)
        gained.append(float((tangent * found).sum()))
    best = float((tangent * steepest_tangent(norm, manifold, weight, tangent, 300)).sum())
    assert best - gained[2] < 0.5 * (best - gained[0]) + 1e-9 * best
    found, _ = solve(norm, manifold, weight, 0 * tangent, 4, dual)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("manifold", [Oblique("columns"), UnitConditionNumber()], ids=str)
@pytest.mark.parametrize("norm", [L1(2), RMSToRMS(), FromDual(nuclear_and_more)], ids=str)
def test_a_dual_that_is_of_no_use_changes_nothing(norm: Norm, manifold: Manifold) -> None:
    weight, gradient = draw(manifold, (6, 4), 5)
    tangent = manifold.to_tangent(weight, gradient)
    cold, dual = solve(norm, manifold, weight, tangent, 6)
    for useless in (torch.zeros_like(dual), -dual, 1e3 * torch.ones_like(dual)):
        assert torch.equal(solve(norm, manifold, weight, tangent, 6, useless)[0], cold)


def test_each_weight_of_a_batch_chooses_where_it_starts() -> None:
    norm, manifold = RMSToRMS(), UnitConditionNumber()
    weight, gradient = draw(manifold, (2, 6, 4), 6)
    tangent = manifold.to_tangent(weight, gradient)
    dual = solve(norm, manifold, weight, tangent, 30)[1] * torch.tensor([1.0, 0.0])[:, None, None]
    together = solve(norm, manifold, weight, tangent, 2, dual)[0]
    gained = (tangent * (together - solve(norm, manifold, weight, tangent, 2)[0])).sum((-2, -1))
    assert gained[0] > 1e-3
    assert abs(gained[1]) < 1e-12
    for i in range(2):
        alone = solve(norm, manifold, weight[i], tangent[i], 2, dual[i])[0]
        assert_close(together[i], alone, rtol=0, atol=1e-10)


def test_a_dual_holds_the_direction_and_a_proof_that_it_is_steep() -> None:
    """Its tangent part is D / |D|, its normal part -Z, and ||G + Z||_* is hardly above <G, D>."""
    norm, manifold = Spectral(), Oblique("columns")
    weight, gradient = draw(manifold, (6, 4), 7)
    unit = manifold.to_tangent(weight, gradient)
    unit = unit / unit.norm()
    d, dual = solve(norm, manifold, weight, 1e6 * unit)
    assert_close(manifold.to_tangent(weight, dual), d / d.norm())
    z = manifold.to_tangent(weight, dual) - dual
    assert float((unit * d).sum()) <= float(norm.dual(unit + z)) * (1 + 1e-12)
    assert float((unit * d).sum()) >= float(norm.dual(unit + z)) * (1 - 1e-4)


def test_the_dual_is_kept_from_step_to_step_and_survives_steps_without_gradient() -> None:
    """Later steps are no less steep, for wide weights (transposed) as for tall ones."""
    norm, shape = RMSToRMS(), (9, 24)
    manifold = Transposed(Oblique("columns"))
    derived = derive(Setting(norm, manifold), shape)
    program = Program(derived.lines, (), slots=derived.slots)
    assert "dual" in program.state
    weight, gradient = draw(manifold, shape, 8)
    kept = program.run(weight=weight, query=gradient, dual=torch.zeros_like(weight))
    first = kept["direction"]
    assert_close(manifold.to_tangent(weight, kept["dual"]), first / first.norm())
    again = program.run(weight=weight, query=3 * gradient, dual=kept["dual"])["direction"]
    assert float((gradient * (again - first)).sum()) > -1e-9
    still = program.run(weight=weight, query=0 * gradient, dual=kept["dual"])
    assert not still["direction"].any()
    after = program.run(weight=weight, query=gradient, dual=still["dual"])["direction"]
    assert_close(after, first)
