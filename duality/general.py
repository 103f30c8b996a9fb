r"""The general solver: the steepest unit tangent for any norm on any manifold.

    argmax <G, A>   over   ||A|| <= 1   and   A tangent at W

Douglas-Rachford splitting needs the nearest tangent and the nearest point of the norm's ball:

    X = to_tangent(W, z)
    Y = project(2 X - z + rho G)            the ball's part, with the linear term
    z <- z + relaxation (Y - X)

At the end the tangent parts of the last Y and of the average Y, in which what is left of the
normal parts cancels, are scaled to norm one, and the better one is taken; so the result is always
feasible.  Every round proves something too: Z = (X - z) / rho is normal to the manifold, hence no
tangent of norm one gains more than ||G + Z||_*, and the best Z makes that an equality.

The tangents may as well be a convex cone, as at the boundary of a region: then -Z makes no sharp
angle with any of them, which is all that the bound needs.  What a cone changes: -D has to be in
it, not D, since that is the step; and the normal part of G matters, since it can forbid to move.

A norm without a projection is served by its duality map alone: subgradient steps down
||G + Z||_*, and the average of the duality maps met on the way.

Source: Eckstein and Bertsekas 1992, doi:10.1007/BF01581204 (splitting); Nedic and Ozdaglar 2009,
doi:10.1137/070708111 (averaging).
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, cast

import torch
from torch import Tensor

from modula.duality.program import line
from modula.duality.projections import Project, onto_ball
from modula.duality.rules import Derived, Setting, derives
from modula.duality.tangent import NOISE, retract_op, tangent_line
from modula.duality.work import cost_of_rounds
from modula.kernels.normalise import normalise
from modula.kernels.op import Op, Shape
from modula.manifolds.base import Manifold
from modula.manifolds.region import Region
from modula.norms.base import NoClosedForm, Norm

ROUNDS = 50  # the gap is then below 0.1 % in the median, 2 % at worst for small weights
STEP = 0.5  # Frobenius length of rho G, in lengths of the first duality map
RELAXATION = 1.6
MAPS_PER_ROUND = 4  # duality maps that do as much as a round of splitting


ToTangent = Callable[[Tensor], Tensor]  # at one weight, whose decomposition it keeps


class Round(NamedTuple):
    """What a round leaves.

    point       Y with ||Y|| <= 1, tangent in the limit
    multiplier  Z, normal at the weight
    dual        where the next round starts, or the first one for a gradient nearly like this
    """

    point: Tensor
    multiplier: Tensor
    dual: Tensor


def iterates(
    norm: Norm,
    to_tangent: ToTangent,
    gradient: Tensor,
    ndim: int,
    rounds: int,
    dual: Tensor | None = None,
) -> Iterator[Round]:
    """The rounds for a gradient of Frobenius norm one (or zero), its weight of `ndim` dims.

    The first point is the duality map of its tangent part; the rounds start from it, or from the
    `dual` that another run has left.
    """
    tangent = to_tangent(gradient)
    start = norm.duality_map(tangent)
    yield Round(start, tangent - gradient, start)
    project = onto_ball(norm)
    try:
        project(torch.zeros_like(gradient))
    except NoClosedForm:
        maps = MAPS_PER_ROUND * rounds
        multiplier = tangent - gradient if dual is None else dual
        yield from _subgradient_steps(norm, to_tangent, gradient, ndim, multiplier, start, maps)
    else:
        rho = STEP * _length(start, ndim)
        z = to_tangent(start) + rho * (gradient - tangent) if dual is None else dual
        yield from _splitting(project, to_tangent, gradient, z, rho, rounds)


def _splitting(
    project: Project, to_tangent: ToTangent, gradient: Tensor, z: Tensor, rho: Tensor, rounds: int
) -> Iterator[Round]:
    x = to_tangent(z)
    for _ in range(rounds):
        y = project(2 * x - z + rho * gradient)
        multiplier = torch.where(rho > 0, (x - z) / rho, 0.0)
        z = z + RELAXATION * (y - x)
        yield Round(y, multiplier, z)
        x = to_tangent(z)


def _subgradient_steps(
    norm: Norm,
    to_tangent: ToTangent,
    gradient: Tensor,
    ndim: int,
    multiplier: Tensor,
    start: Tensor,
    rounds: int,
) -> Iterator[Round]:
    """Z <- normal part of Z - step D,  D = duality_map(G + Z),  later D weighing more."""
    mean, d = torch.zeros_like(gradient), start
    for k in range(1, rounds + 1):
        mean = mean + (d - mean) * 2 / (k + 1)
        length = _length(d, ndim)
        moved = multiplier - torch.where(length > 0, d / length, 0.0) / (k + 1) ** 0.5
        multiplier = normal_part(to_tangent, moved)
        yield Round(mean, multiplier, multiplier)
        d = norm.duality_map(gradient + multiplier)


def normal_part(to_tangent: ToTangent, z: Tensor) -> Tensor:
    """The nearest multiplier: <Z, A> >= 0 for every tangent A, and = 0 where -A is one too."""
    return z + to_tangent(-z)


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
    rounds: int,
    dual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The steepest unit tangent, nearly, and the dual from which a later run may start.

    The dual belongs to the gradient at length one: it may be kept from step to step whatever the
    gradient's scale does.  What that saves is in benchmarks/results/general_solver.md.
    """
    ndim = _ndim(norm, manifold)
    dtype = torch.promote_types(tangent.dtype, torch.float32)
    g: Tensor = normalise(tangent.to(dtype), ndim=ndim)
    best, dual = _best(norm, manifold.tangent_projector(weight), g, ndim, rounds, dual)
    return best.to(tangent.dtype), dual


def _best(
    norm: Norm,
    to_tangent: ToTangent,
    g: Tensor,
    ndim: int,
    rounds: int,
    dual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best feasible point of the rounds, and the dual of the last one."""
    points = iterates(norm, to_tangent, g, ndim, rounds, dual)
    last = next(points)
    mean, best = last.point, _repaired(norm, to_tangent, last.point, ndim)
    for k, last in enumerate(points, 1):  # noqa: B007  (the last one is wanted)
        mean = mean + (last.point - mean) * 3 / (k + 2)  # later points weigh more
    for y in (last.point, mean):
        found = _repaired(norm, to_tangent, y, ndim)
        best = torch.where(_inner(g, found - best, ndim) >= 0, found, best)
    return torch.where(_length(g, ndim) > 0, best, 0.0), last.dual


def multiplier_bounds(
    norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor, rounds: int, every: int = 5
) -> Iterator[Tensor]:
    """Upper bounds on <G, A> over all tangents A of norm one: ||G + Z||_*, falling by and by."""
    size = torch.linalg.vector_norm(gradient)
    to_tangent, g = manifold.tangent_projector(weight), normalise(gradient, ndim=gradient.ndim)
    for k, found in enumerate(iterates(norm, to_tangent, g, _ndim(norm, manifold), rounds)):
        if k % every == 0:
            yield size * norm.dual(g + normal_part(to_tangent, found.multiplier))


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


def _length(x: Tensor, ndim: int) -> Tensor:
    return torch.linalg.vector_norm(x, dim=tuple(range(-ndim, 0)), keepdim=True)


@cache
def splitting_op(norm: Norm, manifold: Manifold) -> Op:
    """The general solver, as an op."""

    def splitting(weight: Tensor, tangent: Tensor) -> Tensor:
        return steepest_tangent(norm, manifold, weight, tangent)

    return Op(f"splitting[{norm}, {manifold}]", splitting, cost_of_rounds(norm, manifold, ROUNDS))


@derives(Norm, Manifold)
def general_solver(setting: Setting, shape: Shape) -> Derived:
    """Any norm on any manifold: a fixed number of rounds of splitting, then made feasible."""
    op = splitting_op(setting.norm, setting.manifold)
    return Derived(
        (tangent_line(setting.manifold, shape), line("direction", op, "weight", "tangent")),
        after=(line("weight", retract_op(setting.manifold), "weight"),),
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
    if _is_known_to_stay(to_tangent, -free, ndim):
        return free.to(gradient.dtype)
    descent = -ascent
    slope = to_tangent(descent)
    sure = _repaired(norm, to_tangent, slope, ndim)
    found, _ = _best(norm, to_tangent, descent, ndim, rounds)
    best = torch.where(_inner(descent, found - sure, ndim) > 0, found, sure)
    some = _length(slope, ndim) > NOISE * torch.finfo(dtype).eps
    return torch.where(some, -best, 0.0).to(gradient.dtype)


def _is_known_to_stay(to_tangent: ToTangent, step: Tensor, ndim: int) -> bool:
    """Whether the whole step is tangent, at all weights of a batch, so that no rounds are needed.

    Looked at on a CPU only: elsewhere the answer would be waited for.
    """
    if step.device.type != "cpu":
        return False
    off, rounding = _length(to_tangent(step) - step, ndim), NOISE * torch.finfo(step.dtype).eps
    return bool((off <= rounding * _length(step, ndim)).all())


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
        after=(line("weight", retract_op(region), "weight"),),
    )
