"""What the general solver is made of: mixtures, rounds that extrapolate, points made tangent."""

import pytest
import torch
from directions import draw
from torch.testing import assert_close

from modula.duality.rules.solvers.general import multiplier_bounds, solve
from modula.duality.rules.solvers.splitting import (
    Round,
    length,
    made_tangent,
    mixture,
    normal_part,
    shares,
    split,
)
from modula.manifolds import Isospectral, Manifold, SpectralBall, Stiefel
from modula.norms import L1, Max, Norm, Nuclear

OFF_FIRST = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64))


def test_no_mixture_is_shorter() -> None:
    generator = torch.Generator().manual_seed(0)
    lefts = list(OFF_FIRST @ torch.randn(5, 2, 6, 4, dtype=torch.float64, generator=generator))
    left = mixture(shares(lefts, 2), lefts, 2).square().sum((-2, -1))
    others = torch.randn(5, 1000, dtype=torch.float64, generator=generator)
    others = torch.einsum("ks,kbij->sbij", others / others.sum(0), torch.stack(lefts))
    assert (left <= others.square().sum((-2, -1)).amin(0)).all()


def test_a_mixture_of_equals_is_the_same_even_if_nothing_is_left() -> None:
    point = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for left in (point, 0 * point):
        assert_close(mixture(shares([left] * 5, 2), [point] * 5, 2), point)


def test_extrapolation_saves_rounds() -> None:
    """Under the nuclear norm 40 rounds in cycles leave less than 40 that stop short of each."""
    norm, manifold = Nuclear(), Stiefel()
    weight, gradient = draw(manifold, (16, 8), 1)
    to_tangent = manifold.tangent_projector(weight)
    g = to_tangent(gradient) / torch.linalg.vector_norm(to_tangent(gradient))
    rho = length(torch.ones_like(g), 2) / 10
    nothing = Round(0 * g, 0 * g)

    def bound(lengths: list[int]) -> float:
        """||G + Z||_* after stages of so many rounds; one of 1 round has nothing to mix."""
        at = nothing
        for rounds in lengths:
            *_, at = split(norm.project, to_tangent, g, at, rho, rounds, 2)
        return float(norm.dual(g + at.multiplier))

    best = bound([800])
    assert bound([40]) - best < 0.2 * (bound([1] * 40) - best)


def test_what_extrapolation_makes_worse_is_taken_back() -> None:
    """In one dim the step to the end of the ball is extrapolated beyond it; the rounds recover."""
    g = torch.tensor([1.0], dtype=torch.float64)
    start = Round(-100 * g, 0 * g)
    *_, at = split(lambda x: x.clamp(-1, 1), lambda v: v, g, start, torch.ones_like(g), 200, 1)
    assert_close(at.point, g)
    assert_close(at.multiplier, 0 * g)


@pytest.mark.parametrize("manifold", [Stiefel(), Isospectral()], ids=str)
def test_points_made_tangent_stay_nearly_in_the_ball(manifold: Manifold) -> None:
    """They lose less to the norm than the nearest tangent of the projection would."""
    norm, project = L1(2), L1(2).project
    weight, point = draw(manifold, (16, 8), 2)
    to_tangent = manifold.tangent_projector(weight)
    point = to_tangent(point) / 5
    nearest = to_tangent(project(point))
    made = made_tangent(project, to_tangent, point, 12, 2)
    off = torch.linalg.vector_norm(made - to_tangent(made))
    assert off < 0.1 * torch.linalg.vector_norm(project(point) - nearest)
    assert norm(to_tangent(made)) < norm(nearest)
    assert torch.equal(made_tangent(project, to_tangent, point, 0, 2), project(point))


@pytest.mark.parametrize("seed", range(3))
def test_normal_parts_make_no_sharp_angle_with_any_tangent_of_a_cone(seed: int) -> None:
    region = SpectralBall(1.0)
    weight, z = draw(region, (5, 4), seed)
    weight = region.project(3 * weight)
    to_tangent = region.tangent_projector(weight)
    normal = normal_part(to_tangent, z)
    others = torch.randn(50, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    for other in others:
        assert (normal * to_tangent(other)).sum() >= -1e-9
    assert_close(normal_part(to_tangent, normal), normal)


@pytest.mark.parametrize("norm", [L1(2), Max(2), Nuclear()], ids=str)
@pytest.mark.parametrize("manifold", [Stiefel(), Isospectral()], ids=str)
def test_fifty_rounds_are_within_a_hundredth_of_the_bound(norm: Norm, manifold: Manifold) -> None:
    """Rounds that were not extrapolated, averaged, missed 4 % under L1."""
    weight, gradient = draw(manifold, (24, 16), 0)
    tangent = manifold.to_tangent(weight, gradient)
    d = solve(norm, manifold, weight, tangent)[0]
    bound = min(multiplier_bounds(norm, manifold, weight, tangent, 300))
    assert float((tangent * d).sum()) > 0.99 * float(bound)
