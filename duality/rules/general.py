r"""The general solver: the steepest unit tangent for any norm on any manifold.

    argmax <G, A>   over   ||A|| <= 1   and   A tangent at W

Rounds of splitting, first with a large rho, which finds the multiplier Z, then with a small one,
which finds a point; then a mixture of points of the ball near it that is nearly tangent.  Both are
made tangent and scaled to norm one, and the better one is taken, so that the result is feasible.
Every round proves something too: Z is normal to the manifold, hence no tangent of norm one gains
more than ||G + Z||_*, and the best Z makes that an equality.

The tangents may as well be a convex cone, as at the boundary of a region: then -Z makes no sharp
angle with any of them, which is all that the bound needs.  What a cone changes: -D has to be in
it, not D, since that is the step; and the normal part of G matters, since it can forbid to move.

A norm without a projection is served by its duality map alone: subgradient steps down
||G + Z||_*, and the average of the duality maps met on the way.
"""

from collections.abc import Iterator
from functools import cache
from itertools import chain
from math import ceil
from typing import cast

import torch
from torch import Tensor

from modula.duality.program.cost import cost_of_rounds
from modula.duality.program.program import Slot, line
from modula.duality.rules.on_manifold import NOISE, tangent_line, way_back
from modula.duality.rules.solvers.projections import Project, onto_ball
from modula.duality.rules.solvers.splitting import (
    Round,
    ToTangent,
    averages,
    length,
    made_tangent,
    normal_part,
    split,
    subgradient_steps,
)
from modula.duality.setting.derive import Derived, Setting, derives
from modula.kernels.elementwise.normalise import normalise
from modula.kernels.op import Op, Shape, elementwise_cost
from modula.manifolds.base import Manifold
from modula.manifolds.region import Region
from modula.norms.base import NoClosedForm, Norm

ROUNDS = 50
TO_TANGENT = 12  # of them at the end, or a quarter if there are fewer: points that are mixed
FAR, NEAR = 3.0, 0.5  # Frobenius length of rho G, in lengths of the first point: at first, then
FAR_SHARE = 0.6  # of the rounds of splitting
# A kept direction is worth starting from if it misses a third of what a new one does, and a tenth
# of the descent at most: rounds forget what is wrong with a new start faster than what was right.
NEARER, ENOUGH = 3.0, 0.1
MAPS_PER_ROUND = 4  # duality maps that do as much as a round of splitting


def _start(
    norm: Norm, to_tangent: ToTangent, gradient: Tensor, ndim: int, dual: Tensor | None = None
) -> tuple[Round, Tensor]:
    """Where the rounds start, and their rho: at the duality map of the gradient's tangent part,
    made feasible; or, where it is proved to be much nearer, at what another run left as its `dual`.
    """
    tangent = to_tangent(gradient)
    new = Round(_repaired(norm, to_tangent, norm.duality_map(tangent), ndim), tangent - gradient)
    if dual is None:
        return new, FAR * length(new.point, ndim)
    kept = Round(_repaired(norm, to_tangent, dual, ndim), normal_part(to_tangent, -dual))
    enough = (_missing(norm, gradient, new, ndim) / NEARER).clamp(max=ENOUGH)
    is_nearer = _missing(norm, gradient, kept, ndim) < enough
    point = torch.where(is_nearer, kept.point, new.point)
    multiplier = torch.where(is_nearer, kept.multiplier, new.multiplier)
    return Round(point, multiplier), torch.where(is_nearer, NEAR, FAR) * length(point, ndim)


def _missing(norm: Norm, gradient: Tensor, at: Round, ndim: int) -> Tensor:
    """The share of the steepest descent that a unit tangent is proved to miss at most."""
    each = norm.dual(gradient + at.multiplier)[(..., *(None,) * norm.ndim)]
    bound = each.sum(tuple(range(-ndim, 0)), keepdim=True)
    return torch.where(bound > 0, 1 - _inner(gradient, at.point, ndim) / bound, 1.0)


def _projection(norm: Norm, like: Tensor) -> Project | None:
    """The projection on the norm's ball, if it has one."""
    project = onto_ball(norm)
    try:
        project(torch.zeros_like(like))
    except NoClosedForm:
        return None
    return project


def steepest_tangent(
    norm: Norm, manifold: Manifold, weight: Tensor, tangent: Tensor, rounds: int = ROUNDS
) -> Tensor:
    """The steepest unit tangent, nearly: better than projecting the duality map, never worse.

    weight, tangent: (..., *weight); the tangent part of a gradient, at any scale, zero for zero.
    """
    return solve(norm, manifold, weight, tangent, rounds)[0]


def solve(
    norm: Norm,
    manifold: Manifold,
    weight: Tensor,
    tangent: Tensor,
    rounds: int = ROUNDS,
    dual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The steepest unit tangent D, nearly, and the dual from which a later run may start.

        dual = D / |D| - Z      the tangent part is D, the normal part -Z

    It belongs to the gradient at length one: it may be kept from step to step whatever the
    gradient's scale does, and while the weight moves.  Zero stands for none.  What it saves is in
    benchmarks/results/general_solver.md.
    """
    ndim = _ndim(norm, manifold)
    dtype = torch.promote_types(tangent.dtype, torch.float32)
    g: Tensor = normalise(tangent.to(dtype), ndim=ndim)
    best, multiplier = _best(norm, manifold.tangent_projector(weight), g, ndim, rounds, dual)
    left = normalise(best, ndim=ndim) - multiplier
    left = torch.where(length(g, ndim) > 0, left, 0.0)
    return best.to(tangent.dtype), left.to(tangent.dtype)


def _best(
    norm: Norm,
    to_tangent: ToTangent,
    g: Tensor,
    ndim: int,
    rounds: int,
    dual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best feasible point for a gradient of length one (or zero), and the last multiplier."""
    start, far_rho = _start(norm, to_tangent, g, ndim, dual)
    project = _projection(norm, g)
    if project is None:
        maps = MAPS_PER_ROUND * rounds
        steps = subgradient_steps(norm, to_tangent, g, start.multiplier, maps, ndim)
        *points, multiplier = averages(to_tangent, steps, ndim)
    else:
        last = min(TO_TANGENT, rounds // 4)
        far = ceil(FAR_SHARE * (rounds - last))
        at = start
        near_rho = NEAR * length(start.point, ndim)
        for rho, count in ((far_rho, far), (near_rho, rounds - last - far)):
            for found in split(project, to_tangent, g, at, rho, count, ndim):
                at = found
        multiplier = at.multiplier
        near = at.point + near_rho * (g + multiplier)
        points = [at.point, made_tangent(project, to_tangent, near, last, ndim)]
    best = start.point
    for y in points:
        d = _repaired(norm, to_tangent, y, ndim)
        best = torch.where(_inner(g, d - best, ndim) >= 0, d, best)
    return torch.where(length(g, ndim) > 0, best, 0.0), multiplier


def multiplier_bounds(
    norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor, rounds: int, every: int = 5
) -> Iterator[Tensor]:
    """Upper bounds on <G, A> over all tangents A of norm one: ||G + Z||_*, falling by and by."""
    size, ndim = torch.linalg.vector_norm(gradient), _ndim(norm, manifold)
    to_tangent, g = manifold.tangent_projector(weight), normalise(gradient, ndim=gradient.ndim)
    multiplier, project = to_tangent(g) - g, _projection(norm, g)
    if project is None:
        maps = MAPS_PER_ROUND * rounds
        found = subgradient_steps(norm, to_tangent, g, multiplier, maps, ndim)
    else:
        start, rho = _start(norm, to_tangent, g, ndim)
        found = split(project, to_tangent, g, start, rho, rounds, ndim)
    for k, each in enumerate(chain([multiplier], (each.multiplier for each in found))):
        if k % every == 0:
            yield size * norm.dual(g + normal_part(to_tangent, each))


def _repaired(norm: Norm, to_tangent: ToTangent, y: Tensor, ndim: int) -> Tensor:
    """The tangent part of y, at norm one."""
    # Twice: the first time may cancel nearly all of y, and what is left need not be tangent yet.
    tangent = to_tangent(to_tangent(y))
    size = norm(tangent)
    size = size[(..., *(None,) * norm.ndim)].amax(tuple(range(-ndim, 0)), keepdim=True)
    return torch.where(size > 0, tangent / size, 0.0)


def _ndim(norm: Norm, manifold: Manifold) -> int:
    return max(norm.ndim, manifold.ndim)


def _inner(x: Tensor, y: Tensor, ndim: int) -> Tensor:
    return (x * y).sum(tuple(range(-ndim, 0)), keepdim=True)


@cache
def solver_ops(norm: Norm, manifold: Manifold, ndim: int) -> tuple[Op, Op, Op]:
    """The general solver, which leaves (2, *weight), and the two: direction and dual."""

    def splitting(weight: Tensor, tangent: Tensor, dual: Tensor) -> Tensor:
        return torch.stack(solve(norm, manifold, weight, tangent, dual=dual), -ndim - 1)

    def first(solved: Tensor) -> Tensor:
        return solved.select(-ndim - 1, 0)

    def second(solved: Tensor) -> Tensor:
        return solved.select(-ndim - 1, 1)

    free = elementwise_cost(0, 0)
    whole = Op(f"splitting[{norm}, {manifold}]", splitting, cost_of_rounds(norm, manifold, ROUNDS))
    return whole, Op("first", first, free), Op("second", second, free)


@derives(Norm, Manifold)
def general_solver(setting: Setting, shape: Shape) -> Derived:
    """Any norm on any manifold: a fixed number of rounds of splitting, then made feasible.

    They start where those of the step before ended, if that is proved to help.
    """
    splitting, first, second = solver_ops(setting.norm, setting.manifold, len(shape))
    return Derived(
        (
            tangent_line(setting.manifold, shape),
            line("solved", splitting, "weight", "tangent", "dual"),
            line("direction", first, "solved"),
            line("dual", second, "solved"),
        ),
        after=way_back(setting.manifold),
        slots=(("dual", Slot()),),
    )


def steepest_in_region(
    norm: Norm, region: Region, weight: Tensor, gradient: Tensor, rounds: int = ROUNDS
) -> Tensor:
    """argmax <G, D> over ||D|| <= 1 with -D in the cone at the weight, nearly.

    weight, gradient: (..., *weight), the gradient whole.  Zero where every step of the cone climbs.
    """
    ndim = _ndim(norm, region)
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    to_tangent = region.tangent_projector(weight)
    ascent: Tensor = normalise(gradient.to(dtype), ndim=ndim)
    free = norm.duality_map(ascent)
    stays = _stays(to_tangent, -free, ndim)
    # On a CPU the rounds are left out if no weight needs them; elsewhere one would wait to know.
    if stays.device.type == "cpu" and bool(stays.all()):
        return free.to(gradient.dtype)
    found = -_steepest_in_cone(norm, to_tangent, -ascent, ndim, rounds)
    return torch.where(stays, free, found).to(gradient.dtype)


def _stays(to_tangent: ToTangent, step: Tensor, ndim: int) -> Tensor:
    """Whether the whole step is tangent, for each weight: nothing is steeper then."""
    off, rounding = length(to_tangent(step) - step, ndim), NOISE * torch.finfo(step.dtype).eps
    return off <= rounding * length(step, ndim)


def _steepest_in_cone(
    norm: Norm, to_tangent: ToTangent, descent: Tensor, ndim: int, rounds: int
) -> Tensor:
    """The unit step along the cone that goes furthest along `descent`; zero where all go back."""
    slope = to_tangent(descent)
    sure = _repaired(norm, to_tangent, slope, ndim)
    found, _ = _best(norm, to_tangent, descent, ndim, rounds)
    best = torch.where(_inner(descent, found - sure, ndim) > 0, found, sure)
    some = length(slope, ndim) > NOISE * torch.finfo(descent.dtype).eps
    return torch.where(some, best, 0.0)


@cache
def cone_op(norm: Norm, region: Region) -> Op:
    """The general solver in the cone of a region, as an op."""

    def splitting(weight: Tensor, query: Tensor) -> Tensor:
        return steepest_in_region(norm, region, weight, query)

    return Op(f"splitting[{norm}, {region}]", splitting, cost_of_rounds(norm, region, ROUNDS))


@derives(Norm, Region)
def steepest_in_cone(setting: Setting, shape: Shape) -> Derived:
    """Any norm in any region: inside, its duality map; at the boundary, the steepest way along."""
    region = cast(Region, setting.manifold)
    return Derived(
        (line("direction", cone_op(setting.norm, region), "weight", "query"),),
        after=way_back(region),
    )
