"""Projections by products stand in for those by SVD, wherever a declaration has a spectral set."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import NoMomentum, certify
from modula.duality.rules.solvers import projections
from modula.duality.rules.solvers.general import steepest_tangent
from modula.duality.rules.solvers.projections import onto, onto_ball
from modula.duality.rules.solvers.region import steepest_in_region
from modula.manifolds import (
    Manifold,
    NormBall,
    SpectralBall,
    SpectralBand,
    Sphere,
    UnitConditionNumber,
)
from modula.norms import L2, Max, Norm, RMSToRMS, Spectral

NORMS: list[Norm] = [
    Spectral(),
    RMSToRMS(),
    3.0 * RMSToRMS(),
    RMSToRMS().on("(h d) i -> h d i", h=2),
    0.5 * Spectral().on("(h d) i -> h d i", h=3),
    Max(2),
]
REGIONS: list[Manifold] = [
    SpectralBall(0.7),
    SpectralBand(0.7, 1.1),
    NormBall(RMSToRMS(), 0.7),
    NormBall(L2(2), 0.7),
    Sphere(ndim=2),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator."""
    monkeypatch.setattr(projections, "products_are_faster", lambda x: True)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 4), (6, 9)], ids=str)
def test_the_ball_of_a_norm(norm: Norm, shape: tuple[int, ...], by_products: None) -> None:
    x = draw(*shape)
    for radius in (0.3, 2.0):
        assert_close(onto_ball(norm, radius)(x), norm.project(x, radius), rtol=0, atol=1e-13)


@pytest.mark.parametrize("manifold", REGIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_region(manifold: Manifold, dtype: torch.dtype, by_products: None) -> None:
    x = draw(2, 6, 4).to(dtype)
    assert onto(manifold)(x).dtype == dtype
    assert_close(onto(manifold)(x), manifold.project(x))


def test_a_cpu_has_its_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*tensors: Tensor, **options: float) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(projections, "spectral_clip", refuse)
    x = draw(6, 4)
    assert torch.equal(onto(SpectralBall())(x), SpectralBall().project(x))
    assert torch.equal(onto_ball(RMSToRMS())(x), RMSToRMS().project(x))
    with pytest.raises(AssertionError):
        onto(SpectralBall())(x.to("meta"))


def test_the_general_solver_is_certified_with_either(by_products: None) -> None:
    for region in (SpectralBall(), SpectralBand(0.5, 1.0)):
        weight, gradient = region.project(draw(6, 4)), draw(6, 4, seed=1)
        d = steepest_in_region(RMSToRMS(), region, weight, gradient)
        proof = certify(RMSToRMS(), region, weight, gradient, d)
        assert proof.tangency < 1e-6 and -1e-8 <= proof.gap < 0.03
    manifold = UnitConditionNumber()
    weight = manifold.project(draw(6, 4))
    tangent = manifold.to_tangent(weight, gradient)
    d = steepest_tangent(RMSToRMS(), manifold, weight, tangent)
    assert certify(RMSToRMS(), manifold, weight, gradient, d).gap < 0.01


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("region", REGIONS[:3], ids=str)
def test_no_step_leaves_the_region(
    region: Manifold, dtype: torch.dtype, rounding: float, by_products: None
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 5, bias=False, dtype=dtype)
    modula.declare(layer, {"weight": modula.Geometry(L2(2), region)})
    optimizer = modula.SteepestDescent(layer, 0.3, momentum=NoMomentum())
    target = 2 * torch.randn(5, 4, dtype=dtype)  # outside, so that each step ends at the boundary
    for _ in range(20):
        loss = (layer.weight - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(region.residual(layer.weight.detach())) < rounding
