r"""The general solver: the steepest unit tangent for any norm on any manifold.

    argmax <G, A>   over   ||A|| <= 1   and   A tangent at W

Rounds of splitting, first with a large rho, which finds the multiplier Z, then with a small one,
which finds a point; then a mixture of points of the ball near it that is nearly tangent.  Both are
made tangent and scaled to norm one, and the better one is taken, so that the result is feasible.
Every round proves something too: Z is normal to the manifold, hence no tangent of norm one gains
more than ||G + Z||_*, and the best Z makes that an equality.

The tangents may as well be a convex cone: see `region`.

A norm without a projection is served by its duality map alone: subgradient steps down
||G + Z||_*, and the average of the duality maps met on the way.
"""

from collections.abc import Iterator
from itertools import chain
from math import ceil

import torch
from torch import Tensor

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
from modula.kernels.elementwise.length import normalise
from modula.manifolds.base import Manifold
from modula.norms.base import NoClosedForm, Norm

ROUNDS = 50
TO_TANGENT = 12  # of them at the end, or a quarter if there are fewer: points that are mixed
FAR, NEAR = 3.0, 0.5  # Frobenius length of rho G, in lengths of the first point: at first, then
FAR_SHARE = 0.6  # of the rounds of splitting
# A kept direction is worth starting from if it misses a third of what a new one does, and a tenth
# of the descent at most: rounds forget what is wrong with a new start faster than what was right.
NEARER, ENOUGH = 3.0, 0.1
# A tangent part this many roundings long is the rest of a gradient normal to the manifold: no
# direction at all.  A row with one entry, say, is a point of a sphere that has no tangents.
NOISE = 32.0
MAPS_PER_ROUND = 4  # duality maps that do as much as a round of splitting


def _start(
    norm: Norm, to_tangent: ToTangent, gradient: Tensor, ndim: int, dual: Tensor | None = None
) -> tuple[Round, Tensor]:
    """Where the rounds start, and their rho: at the duality map of the gradient's tangent part,
    made feasible; or, where it is proved to be much nearer, at what another run left as its `dual`.
    """
    tangent = to_tangent(gradient)
    new = Round(
        made_feasible(norm, to_tangent, norm.duality_map(tangent), ndim), tangent - gradient
    )
    if dual is None:
        return new, FAR * length(new.point, ndim)
    kept = Round(made_feasible(norm, to_tangent, dual, ndim), normal_part(to_tangent, -dual))
    enough = (_missing(norm, gradient, new, ndim) / NEARER).clamp(max=ENOUGH)
    is_nearer = _missing(norm, gradient, kept, ndim) < enough
    point = torch.where(is_nearer, kept.point, new.point)
    multiplier = torch.where(is_nearer, kept.multiplier, new.multiplier)
    return Round(point, multiplier), torch.where(is_nearer, NEAR, FAR) * length(point, ndim)


def _missing(norm: Norm, gradient: Tensor, at: Round, ndim: int) -> Tensor:
    """The share of the steepest descent that a unit tangent is proved to miss at most."""
    each = norm.dual(gradient + at.multiplier)[(..., *(None,) * norm.ndim)]
    bound = each.sum(tuple(range(-ndim, 0)), keepdim=True)
    return torch.where(bound > 0, 1 - inner(gradient, at.point, ndim) / bound, 1.0)


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
    ndim = common_ndim(norm, manifold)
    dtype = torch.promote_types(tangent.dtype, torch.float32)
    g: Tensor = normalise(tangent.to(dtype), ndim=ndim)
    best, multiplier = best_feasible(
        norm, manifold.tangent_projector(weight), g, ndim, rounds, dual
    )
    left = normalise(best, ndim=ndim) - multiplier
    left = torch.where(length(g, ndim) > 0, left, 0.0)
    return best.to(tangent.dtype), left.to(tangent.dtype)


def best_feasible(
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
        d = made_feasible(norm, to_tangent, y, ndim)
        best = torch.where(inner(g, d - best, ndim) >= 0, d, best)
    return torch.where(length(g, ndim) > 0, best, 0.0), multiplier


def multiplier_bounds(
    norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor, rounds: int, every: int = 5
) -> Iterator[Tensor]:
    """Upper bounds on <G, A> over all tangents A of norm one: ||G + Z||_*, falling by and by."""
    size, ndim = torch.linalg.vector_norm(gradient), common_ndim(norm, manifold)
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


def made_feasible(norm: Norm, to_tangent: ToTangent, y: Tensor, ndim: int) -> Tensor:
    """The tangent part of y, at norm one."""
    # Twice: the first time may cancel nearly all of y, and what is left need not be tangent yet.
    tangent = to_tangent(to_tangent(y))
    size = norm(tangent)
    size = size[(..., *(None,) * norm.ndim)].amax(tuple(range(-ndim, 0)), keepdim=True)
    return torch.where(size > 0, tangent / size, 0.0)


def common_ndim(norm: Norm, manifold: Manifold) -> int:
    """How many trailing dims one problem has: those of the norm or of the manifold."""
    return max(norm.ndim, manifold.ndim)


def inner(x: Tensor, y: Tensor, ndim: int) -> Tensor:
    """<x, y> over the last ndim dims, which are kept."""
    return (x * y).sum(tuple(range(-ndim, 0)), keepdim=True)
