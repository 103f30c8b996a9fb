"""Steps in regions: free inside, along the boundary at it, certified, and never out."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import NoMomentum, Setting, certify, derive
from modula.duality.declaration.declaration import Declaration
from modula.duality.plan import plan_of
from modula.duality.rules.solvers.region import steepest_in_region
from modula.duality.setting.derive import rule_name
from modula.manifolds import Manifold, NormBall, Region, SpectralBall, SpectralBand, Stiefel
from modula.norms import L1, L2, RMS, Frobenius, FromDual, Max, Norm, Nuclear, RMSToRMS, Rows
from modula.norms.in_coordinates import InCoordinates
from modula.norms.maps.linear import Along
from modula.norms.metrics.base import Memory
from modula.norms.metrics.diagonal import Diagonal
from strategies import seeds

REGIONS: list[Manifold] = [
    SpectralBall(1.0),
    SpectralBand(0.5, 1.0),
    NormBall(Max(2), 0.2),
    NormBall(Rows(L2()), 0.5),
]
NORMS: list[Norm] = [RMSToRMS(), Max(2), Nuclear(), Rows(RMS()), 2.0 * L1(2)]
SHAPES = [(6, 4), (3, 5), (4, 1)]
every_region = pytest.mark.parametrize("region", REGIONS, ids=str)


def direction(norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor) -> Tensor:
    """D, by the plain twins."""
    derived = derive(Setting(norm, manifold), weight.shape[-2:])
    return derived.first_direction(weight, gradient)


def draw(region: Manifold, shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """A weight partly at the boundary and a gradient; every other one would push it out."""
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    weight = region.project(weight)
    return weight, gradient - seed % 2 * 2 * weight * gradient.norm() / weight.norm()


@every_region
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_every_norm_is_feasible_and_certified_near_the_best(norm: Norm, region: Manifold) -> None:
    for seed, shape in enumerate(SHAPES):
        weight, gradient = draw(region, shape, seed)
        d = direction(norm, region, weight, gradient)
        proof = certify(norm, region, weight, gradient, d)
        assert proof.tangency < 1e-6
        assert proof.norm <= 1 + 1e-9
        assert -1e-8 <= proof.gap < 0.03


@every_region
@settings(max_examples=5)
@given(seed=seeds())
def test_euclidean_lengths_have_a_closed_form(region: Manifold, seed: int) -> None:
    """The projection on the cone, normalised: certified without a gap."""
    weight, gradient = draw(region, (5, 3), seed)
    d = direction(L2(2), region, weight, gradient)
    proof = certify(L2(2), region, weight, gradient, d)
    assert proof.tangency < 1e-6
    assert proof.norm == pytest.approx(1.0) or torch.equal(d, torch.zeros_like(d))  # no way out
    assert abs(proof.gap) < 1e-6
    assert rule_name(Setting(L2(2), region), (5, 3)) == "riemannian_gradient"


@pytest.mark.parametrize("norm", [L2(2), RMSToRMS()], ids=str)
def test_in_other_coordinates_the_step_is_certified_too(norm: Norm) -> None:
    """What a metric makes of the norm: ||C A|| <= 1 in the cone of the ball."""
    weight, gradient = draw(SpectralBall(), (5, 4), 1)
    stretch = torch.diag(torch.tensor([0.5, 1.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    measured = InCoordinates(norm, Along(stretch, -2))
    d = steepest_in_region(measured, SpectralBall(), weight, gradient)
    proof = certify(measured, SpectralBall(), weight, gradient, d)
    assert proof.tangency < 1e-9
    assert proof.norm <= 1 + 1e-9
    assert 0 <= proof.gap < 0.05


def test_under_a_metric_no_step_leaves_the_region() -> None:
    torch.manual_seed(0)
    layer, region = nn.Linear(3, 4, bias=False, dtype=torch.float64), SpectralBall(0.5)
    declaration = Declaration(Setting(L2(2), region, Diagonal(Memory(0.9))))
    optimizer = modula.SteepestDescent(layer, 0.1, groups=[modula.Group({"weight": declaration})])
    assert optimizer.plan["weight"].rule == "sandwich_in_region"
    losses = []
    for _ in range(5):
        loss = (layer.weight - 1).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert float(region.residual(layer.weight.detach())) < 1e-12
    assert losses == sorted(losses, reverse=True)


def test_at_the_boundary_by_hand() -> None:
    """At diag(1, 1/2) the first entry may not grow, so D, the opposite of the step, not fall."""
    weight = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
    gradient = torch.tensor([[-3.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
    found = direction(Max(2), SpectralBall(), weight, gradient)
    assert_close(found, torch.tensor([[0.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    found = direction(Max(2), SpectralBall(), weight, -gradient)
    assert_close(found, torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("norm", [RMSToRMS(), Max(2), Frobenius(), Rows(RMS())], ids=str)
def test_inside_the_direction_is_the_duality_map(norm: Norm) -> None:
    _, gradient = draw(Stiefel(), (6, 4), 0)
    weight = 0.5 * Stiefel().project(gradient.flip(0))
    assert_close(direction(norm, SpectralBall(), weight, gradient), norm.duality_map(gradient))


@pytest.mark.parametrize("norm", [RMSToRMS(), Max(2), Frobenius(), Rows(RMS())], ids=str)
def test_at_the_boundary_so_it_is_where_that_leads_inwards(norm: Norm) -> None:
    weight = Stiefel().project(draw(Stiefel(), (6, 4), 0)[0])
    inwards = norm.duality_map(weight)
    assert_close(SpectralBall().to_tangent(weight, -inwards), -inwards)  # else a harder problem
    assert_close(direction(norm, SpectralBall(), weight, weight), inwards)
    assert torch.equal(direction(norm, SpectralBall(), weight, 0 * weight), 0 * weight)


@every_region
@pytest.mark.parametrize("norm", [Max(2), RMSToRMS(), Frobenius()], ids=str)
def test_nothing_to_follow_and_nowhere_to_go_is_no_step(norm: Norm, region: Manifold) -> None:
    weight, gradient = draw(region, (4, 4), 0)
    zero = torch.zeros_like(weight)
    assert torch.equal(direction(norm, region, weight, zero), zero)
    outwards = region.to_tangent(weight, gradient) - gradient  # a step of -outwards only leaves
    found = direction(norm, region, weight, outwards)
    assert (outwards * found).sum() <= 1e-6 * outwards.norm() * found.norm()


@pytest.mark.parametrize("norm", [RMSToRMS(), Max(2)], ids=str)
def test_a_batch_is_a_loop_at_any_scale(norm: Norm) -> None:
    pairs = [draw(SpectralBall(), (6, 4), seed) for seed in range(2)]
    weights, gradients = (torch.stack(list(x)) for x in zip(*pairs, strict=True))
    gradients[1] *= 1e3
    weights, gradients = (
        torch.cat([x, y]) for x, y in ((weights, weights[:1] / 10), (gradients, gradients[:1]))
    )
    at_once = direction(norm, SpectralBall(), weights, gradients)
    one_by_one = [
        direction(norm, SpectralBall(), w, g) for w, g in zip(weights, gradients, strict=True)
    ]
    assert_close(at_once, torch.stack(one_by_one), rtol=0, atol=1e-8)
    inside = norm.duality_map(gradients[2])  # whatever the others need
    assert_close(at_once[2], inside, rtol=0, atol=1e-12)
    low = direction(norm, SpectralBall(), weights.float(), 1e-20 * gradients.float())
    gained = (gradients * low).sum((-2, -1)) / (gradients * at_once).sum((-2, -1))
    assert (gained > 0.98).all()


def test_a_weight_kept_in_half_precision_is_at_the_boundary_from_its_own_rounding_away() -> None:
    weight = (0.998 * Stiefel().project(draw(Stiefel(), (6, 4), 0)[0])).bfloat16()
    gradient = -weight.float() + 0.1 * draw(Stiefel(), (6, 4), 1)[1].float()
    d = direction(RMSToRMS(), SpectralBall(), weight, gradient)
    assert_close(SpectralBall().to_tangent(weight, -d), -d, rtol=0, atol=1e-5)
    assert (gradient * d).sum() > 0


def test_a_norm_without_projection_is_served_by_its_duality_map() -> None:
    norm = FromDual(lambda g: torch.linalg.matrix_norm(g, ord="nuc") + torch.linalg.vector_norm(g))
    weight, gradient = draw(SpectralBall(), (3, 2), 1)
    d = direction(norm, SpectralBall(), weight, gradient)
    proof = certify(norm, SpectralBall(), weight, gradient, d)
    assert proof.tangency < 1e-9
    assert proof.norm <= 1 + 1e-3
    assert -1e-3 <= proof.gap < 0.05


def test_the_certificate_sees_a_step_out_of_the_region_and_a_lazy_one() -> None:
    weight = torch.eye(3, dtype=torch.float64)
    gradient = -torch.eye(3, dtype=torch.float64) + torch.diag(torch.ones(2).double(), 1)
    plain = Max(2).duality_map(gradient)
    assert certify(Max(2), SpectralBall(), weight, gradient, plain).tangency > 0.1
    best = direction(Max(2), SpectralBall(), weight, gradient)
    assert certify(Max(2), SpectralBall(), weight, gradient, best).passes(0.02)
    assert certify(Max(2), SpectralBall(), weight, gradient, best / 2).gap == pytest.approx(
        0.5, abs=0.02
    )


@pytest.mark.parametrize(
    ("region", "maximize"), [(SpectralBall(0.5), False), (NormBall(Max(2), 0.2), True)], ids=str
)
def test_descent_and_ascent_end_at_the_nearest_point_of_the_region(
    region: Manifold, maximize: bool
) -> None:
    """The best point for |w - target|^2 is the projection of the target, which lies outside."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 5, bias=False, dtype=torch.float64)
    modula.declare(layer, {"weight": modula.Geometry(RMSToRMS(), region)})
    target = torch.randn(5, 4, dtype=torch.float64)
    optimizer = modula.SteepestDescent(layer, 0.1, momentum=NoMomentum(), maximize=maximize)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 60)
        loss = (layer.weight - target).square().sum() * (-1 if maximize else 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(region.residual(layer.weight.detach())) < 1e-12
    assert_close(layer.weight.detach(), region.project(target), rtol=0, atol=0.02)


def test_a_plan_names_the_solver_and_the_region() -> None:
    declaration = Declaration(Setting(RMSToRMS(), SpectralBall(2.0)))
    row = plan_of([("head.weight", (6, 4), declaration, 4)])["head.weight"]
    assert (row.rule, row.known_as) == ("steepest_in_cone", "Muon in a region")
    assert str(row.program).splitlines() == [
        "direction = splitting[RMSToRMS(), SpectralBall(radius=2.0)](weight, gradient)",
        "point = copy(weight)",
        "weight = step(weight, direction, lr, scale=1)",
        "weight = retract[SpectralBall(radius=2.0)](point, weight)",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "region",
    [SpectralBall(0.3), SpectralBand(0.3, 0.7), NormBall(Frobenius(), 0.3)],
    ids=str,
)
def test_a_weight_that_rounding_left_near_the_boundary_is_certified_on_it(
    region: Region, dtype: torch.dtype
) -> None:
    """Its cone was missed once: inside, the whole gradient is open, and much of it looked lost."""
    torch.manual_seed(0)
    drawn = torch.randn(8, 5, dtype=torch.float64)
    weight = region.project(drawn / torch.linalg.matrix_norm(drawn, 2)).to(dtype)
    gradient = 0.3 * torch.randn(8, 5).to(dtype) - weight  # descent leads out
    found = direction(Frobenius(), region, weight, gradient)
    assert_close(region.settled(weight), weight.double(), atol=0.01, rtol=0)
    assert region.residual(region.settled(weight)) < 1e-12
    proof = certify(Frobenius(), region, weight, gradient, found)
    assert proof.passes(1e-4 if dtype == torch.float32 else 0.03), proof
    whole = certify(Frobenius(), region, weight, gradient, Frobenius().duality_map(gradient))
    assert whole.tangency > 0.1
