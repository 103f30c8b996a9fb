"""Nominal counts of exact solvers: decompositions where there are some, counted once where kept."""

import pytest

from modula.duality import Setting
from modula.duality.declaration.declaration import Declaration
from modula.duality.plan import plan_of
from modula.duality.program.cost import cost_of_projections, cost_of_rounds, cost_of_tangents
from modula.manifolds import (
    Isospectral,
    Manifold,
    NormBall,
    Oblique,
    SpectralBall,
    SpectralBand,
    SpectralSphere,
    Stiefel,
    Transposed,
    UnitConditionNumber,
)
from modula.norms import Frobenius, KyFan, Max, Norm, Nuclear, RMSToRMS, Schatten

SPECTRAL: list[Norm | Manifold] = [
    *(RMSToRMS(), Nuclear(), Schatten(3), KyFan(2), 2.0 * RMSToRMS()),
    *(Stiefel(), UnitConditionNumber(), SpectralSphere(), Isospectral(), SpectralBall()),
    *(SpectralBand(0.5, 1.0), NormBall(Nuclear()), Transposed(Stiefel())),
]


@pytest.mark.parametrize("target", SPECTRAL, ids=str)
def test_what_needs_an_svd_is_counted_as_one(target: Norm | Manifold) -> None:
    cost = cost_of_projections(target)
    assert cost((64, 64)).flops == 28 * 64**3
    assert cost((3, 128, 64)).flops == cost((3, 64, 128)).flops == 3 * 36 * 64**3


@pytest.mark.parametrize("target", [Max(2), Frobenius(), Oblique(), NormBall(Max(2))], ids=str)
def test_what_needs_none_is_counted_by_the_entry(target: Norm | Manifold) -> None:
    assert cost_of_projections(target, 5)((64, 32)).flops == 5 * 16 * 64 * 32


def test_blocks_are_counted_one_by_one() -> None:
    heads = RMSToRMS().on("(h d) i -> h d i", h=4)
    whole = cost_of_projections(RMSToRMS())
    assert cost_of_projections(heads)((64, 16)).flops == 4 * whole((16, 16)).flops
    convolution = RMSToRMS().over(4)
    assert cost_of_projections(convolution)((8, 4, 3, 3)).flops == whole((8, 36)).flops


@pytest.mark.parametrize(
    "manifold", [SpectralBall(), SpectralSphere(), Isospectral(), NormBall(Nuclear())], ids=str
)
def test_what_is_kept_between_vectors_is_counted_once(manifold: Manifold) -> None:
    one, two, ten = (cost_of_tangents(manifold, count)((32, 16)).flops for count in (1, 2, 10))
    assert ten - two == pytest.approx(8 * (two - one))
    kept = one - (two - one)
    assert kept == cost_of_projections(manifold)((32, 16)).flops


def test_rounds_of_the_general_solver() -> None:
    """A projection of the norm and a tangent part each: 50 SVDs and more are in the plan."""
    rounds = cost_of_rounds(RMSToRMS(), Oblique(), 7)((32, 16))
    assert rounds.flops == 7 * (cost_of_projections(RMSToRMS())((32, 16)).flops + 6 * 32 * 16)
    declaration = Declaration(Setting(RMSToRMS(), Oblique()))
    row = plan_of([("weight", (64, 64), declaration, 4)])["weight"]
    assert 50 * 28 * 64**3 < row.flops < 70 * 28 * 64**3
