r"""The general solver: the steepest unit tangent for any norm on any manifold.

    argmax <G, A>   over   ||A|| <= 1   and   A tangent at W

Douglas-Rachford splitting needs the nearest tangent and the nearest point of the norm's ball:

    X = to_tangent(W, z)
    Y = project(2 X - z + rho G)            the ball's part, with the linear term
    z <- z + relaxation (Y - X)

At the end two mixtures of the Y, in which what is left of their normal parts cancels, are made
tangent and scaled to norm one, and the better one is taken; so the result is always feasible.
One is the average; the other is extrapolated from the last few.  Every round proves something too:
Z = (X - z) / rho is normal to the manifold, hence no tangent of norm one gains more than
||G + Z||_*, and the best Z makes that an equality.

The tangents may as well be a convex cone, as at the boundary of a region: then -Z makes no sharp
angle with any of them, which is all that the bound needs.  What a cone changes: -D has to be in
it, not D, since that is the step; and the normal part of G matters, since it can forbid to move.

A norm without a projection is served by its duality map alone: subgradient steps down
||G + Z||_*, and the average of the duality maps met on the way.

Source: Eckstein and Bertsekas 1992, doi:10.1007/BF01581204 (splitting); Nedic and Ozdaglar 2009,
doi:10.1137/070708111 (averaging); Anderson 1965, doi:10.1145/321296.321305 (extrapolation).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple, cast

import torch
from torch import Tensor

from modula.duality.program import Slot, line
from modula.duality.projections import Project, onto_ball
from modula.duality.rules import Derived, Setting, derives
from modula.duality.tangent import NOISE, retract_op, tangent_line
from modula.duality.work import cost_of_rounds
from modula.kernels.normalise import normalise
from modula.kernels.op import Op, Shape, elementwise_cost
from modula.manifolds.base import Manifold
from modula.manifolds.region import Region
from modula.norms.base import NoClosedForm, Norm
from modula.norms.numerics import flat

ROUNDS = 50  # small weights then miss 1e-7 in the median, 0.7 % at worst, without a kept dual
STEP = 0.8  # Frobenius length of rho G, in lengths of the first point
RELAXATION = 1.9
LAST = 8  # points that are extrapolated
RIDGE = 1e-6  # of their mean square normal part: keeps the weights of the mixture moderate
# A kept direction is worth starting from if it misses a third of what a new one does, and a tenth
# of the descent at most: rounds forget what is wrong with a new start faster than what was right.
NEARER, NEAR = 3.0, 0.1
MAPS_PER_ROUND = 4  # duality maps that do as much as a round of splitting


ToTangent = Callable[[Tensor], Tensor]  # at one weight, whose decomposition it keeps


class Round(NamedTuple):
    """What a round leaves.

    point       Y with ||Y|| <= 1, tangent in the limit
    normal      the part of it that is not tangent
    multiplier  Z, normal at the weight
    """

    point: Tensor
    normal: Tensor
    multiplier: Tensor


def iterates(
    norm: Norm,
    to_tangent: ToTangent,
    gradient: Tensor,
    ndim: int,
    rounds: int,
    dual: Tensor | None = None,
) -> Iterator[Round]:
    """The rounds for a gradient of Frobenius norm one (or zero), its weight of `ndim` dims.

    The first one is where they start: the duality map of the gradient's tangent part, made
    feasible; or, where it is proved to be much nearer, what another run has left as its `dual`.
    """
    tangent = to_tangent(gradient)
    start = _repaired(norm, to_tangent, norm.duality_map(tangent), ndim)
    multiplier = tangent - gradient
    if dual is not None:
        kept, kept_multiplier = (
            _repaired(norm, to_tangent, dual, ndim),
            normal_part(to_tangent, -dual),
        )
        missing = _missing(norm, gradient, start, multiplier, ndim)
        enough = (missing / NEARER).clamp(max=NEAR)
        is_nearer = _missing(norm, gradient, kept, kept_multiplier, ndim) < enough
        start = torch.where(is_nearer, kept, start)
        multiplier = torch.where(is_nearer, kept_multiplier, multiplier)
    yield Round(start, torch.zeros_like(start), multiplier)
    project = onto_ball(norm)
    try:
        project(torch.zeros_like(gradient))
    except NoClosedForm:
        maps = MAPS_PER_ROUND * rounds
        yield from _subgradient_steps(norm, to_tangent, gradient, ndim, multiplier, maps)
    else:
        rho = STEP * _length(start, ndim)
        z = start - rho * multiplier
        yield from _splitting(project, to_tangent, gradient, z, rho, rounds)


def _missing(norm: Norm, gradient: Tensor, unit: Tensor, multiplier: Tensor, ndim: int) -> Tensor:
    """The share of the steepest descent that a unit tangent is proved to miss at most."""
    each = norm.dual(gradient + multiplier)[(..., *(None,) * norm.ndim)]
    bound = each.sum(tuple(range(-ndim, 0)), keepdim=True)
    return torch.where(bound > 0, 1 - _inner(gradient, unit, ndim) / bound, 1.0)


def _splitting(
    project: Project, to_tangent: ToTangent, gradient: Tensor, z: Tensor, rho: Tensor, rounds: int
) -> Iterator[Round]:
    x = to_tangent(z)
    for _ in range(rounds):
        y = project(2 * x - z + rho * gradient)
        before = z - x
        z = z + RELAXATION * (y - x)
        x = to_tangent(z)
        multiplier = torch.where(rho > 0, (x - z) / rho, 0.0)
        yield Round(y, (z - x - before) / RELAXATION, multiplier)


def _subgradient_steps(
    norm: Norm,
    to_tangent: ToTangent,
    gradient: Tensor,
    ndim: int,
    multiplier: Tensor,
    rounds: int,
) -> Iterator[Round]:
    """Z <- normal part of Z - step D,  D = duality_map(G + Z)"""
    for k in range(1, rounds + 1):
        d = norm.duality_map(gradient + multiplier)
        length = _length(d, ndim)
        step = torch.where(length > 0, 1 / length, 0.0) / (k + 1) ** 0.5
        before, multiplier = multiplier, normal_part(to_tangent, multiplier - step * d)
        normal = (before - multiplier) * length * (k + 1) ** 0.5
        yield Round(d, normal, multiplier)


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
    left = torch.where(_length(g, ndim) > 0, left, 0.0)
    return best.to(tangent.dtype), left.to(tangent.dtype)


def _best(
    norm: Norm,
    to_tangent: ToTangent,
    g: Tensor,
    ndim: int,
    rounds: int,
    dual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best feasible point of the rounds, and the multiplier of the last one."""
    points = iterates(norm, to_tangent, g, ndim, rounds, dual)
    found = next(points)
    best = mean = found.point
    last = deque[Round](maxlen=LAST)
    for k, found in enumerate(points, 1):
        mean = mean + (found.point - mean) * 3 / (k + 2)  # later points weigh more
        last.append(found)
    for y in (mean, extrapolated(last, ndim)):
        d = _repaired(norm, to_tangent, y, ndim)
        best = torch.where(_inner(g, d - best, ndim) >= 0, d, best)
    return torch.where(_length(g, ndim) > 0, best, 0.0), found.multiplier


def extrapolated(last: Sequence[Round], ndim: int) -> Tensor:
    """The mixture of the points, with weights that add up to one, with the least normal part."""
    points = torch.stack([flat(each.point, ndim) for each in last], -2)
    normals = torch.stack([flat(each.normal, ndim) for each in last], -2)
    gram = (normals @ normals.mT).double()
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    ridge = RIDGE * torch.eye(len(last), dtype=gram.dtype, device=gram.device)
    relative = torch.where(size > 0, gram / size, 0.0) + ridge
    shares = torch.linalg.solve_ex(relative, torch.ones_like(gram[..., :1]))[0]
    shares = (shares / shares.sum(-2, keepdim=True)).to(points.dtype)
    return (shares * points).sum(-2).reshape(last[0].point.shape)


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
        after=(line("weight", retract_op(setting.manifold), "weight"),),
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
    off, rounding = _length(to_tangent(step) - step, ndim), NOISE * torch.finfo(step.dtype).eps
    return off <= rounding * _length(step, ndim)


def _steepest_in_cone(
    norm: Norm, to_tangent: ToTangent, descent: Tensor, ndim: int, rounds: int
) -> Tensor:
    """The unit step along the cone that goes furthest along `descent`; zero where all go back."""
    slope = to_tangent(descent)
    sure = _repaired(norm, to_tangent, slope, ndim)
    found, _ = _best(norm, to_tangent, descent, ndim, rounds)
    best = torch.where(_inner(descent, found - sure, ndim) > 0, found, sure)
    some = _length(slope, ndim) > NOISE * torch.finfo(descent.dtype).eps
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
        after=(line("weight", retract_op(region), "weight"),),
    )
