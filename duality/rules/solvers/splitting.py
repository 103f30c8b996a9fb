r"""Rounds that search the steepest unit tangent: Douglas-Rachford splitting, extrapolated.

    argmax <G, A>   over   ||A|| <= 1   and   A tangent at W

Needed are the nearest tangent and the nearest point of the norm's ball:

    X = to_tangent(W, z)
    Y = project(2 X - z + rho G)            the ball's part, with the linear term
    z <- z + relaxation (Y - X)
    Z = (X - z) / rho                       a multiplier: normal at the weight

Every few rounds z becomes the mixture of what these rounds made of it in which Y - X nearly
cancels (Anderson's extrapolation); should Y - X be longer after it, it is taken back.

The tangents may as well be a convex cone.  A weight is the last `ndim` dims of each tensor.

Source: Eckstein and Bertsekas 1992, doi:10.1007/BF01581204 (splitting); Anderson 1965,
doi:10.1145/321296.321305, and Zhang, O'Donoghue and Boyd 2020, doi:10.1137/18M1232772, which
keeps it from doing harm (extrapolation); Nedic and Ozdaglar 2009, doi:10.1137/070708111 (averages).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modula.duality.rules.solvers.projections import Project
from modula.norms.base import Norm
from modula.norms.numerics import flat

RELAXATION = 1.9
CYCLE = 8  # rounds from one extrapolation to the next
RIDGE = 1e-6  # of their mean square length: keeps the shares of a mixture moderate
REACH = 20.0  # how far beyond a normal part its multiplier is moved: few entries answer to it

ToTangent = Callable[[Tensor], Tensor]  # at one weight, whose decomposition it keeps


class Round(NamedTuple):
    """What a round leaves: a point X or D, and the multiplier Z, normal at the weight."""

    point: Tensor
    multiplier: Tensor


def split(
    project: Project,
    to_tangent: ToTangent,
    gradient: Tensor,
    start: Round,
    rho: Tensor,
    rounds: int,
    ndim: int,
) -> Iterator[Round]:
    """The rounds of splitting: points X are tangent, and in the limit of norm at most one."""
    z = start.point - rho * start.multiplier
    x, plain, limit = to_tangent(z), z, torch.full_like(rho, torch.inf)
    moved, lefts = list[Tensor](), list[Tensor]()
    for k in range(1, rounds + 1):
        left = project(2 * x - z + rho * gradient) - x
        moved.append(z + RELAXATION * left)
        lefts.append(left)
        size = length(left, ndim)
        z = plain = torch.where(size <= limit, moved[-1], plain)
        limit = torch.full_like(rho, torch.inf)
        if k % CYCLE == 0 or k == rounds:
            z, limit = mixture(shares(lefts, ndim), moved, ndim), size
            moved, lefts = [], []
        x = to_tangent(z)
        yield Round(x, torch.where(rho > 0, (x - z) / rho, 0.0))


def made_tangent(
    project: Project, to_tangent: ToTangent, point: Tensor, rounds: int, ndim: int
) -> Tensor:
    """A mixture of points of the ball near this one, that is tangent but for little.

    Each is project(point + S) for a normal S; where its own normal part would vanish is
    extrapolated.  A tangent found so keeps the face that the point has chosen, say its zeros under
    L1, which the nearest tangent would spoil.
    """
    shift = torch.zeros_like(point)
    points, moved, lefts = list[Tensor](), list[Tensor](), list[Tensor]()
    for k in range(rounds):
        if k > 0:
            shift = normal_part(to_tangent, mixture(shares(lefts, ndim), moved, ndim))
        points.append(project(point + shift))
        lefts.append(normal_part(to_tangent, shift - points[-1]) - shift)
        moved.append(shift + REACH * lefts[-1])
    return mixture(shares(lefts, ndim), points, ndim) if points else project(point)


def subgradient_steps(
    norm: Norm,
    to_tangent: ToTangent,
    gradient: Tensor,
    multiplier: Tensor,
    rounds: int,
    ndim: int,
) -> Iterator[Round]:
    """Z <- normal part of Z - step D,  D = duality_map(G + Z):  for norms without a projection"""
    for k in range(1, rounds + 1):
        d = norm.duality_map(gradient + multiplier)
        size = length(d, ndim)
        step = torch.where(size > 0, 1 / size, 0.0) / (k + 1) ** 0.5
        multiplier = normal_part(to_tangent, multiplier - step * d)
        yield Round(d, multiplier)


def averages(
    to_tangent: ToTangent, rounds: Iterator[Round], ndim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of the points, the later ones with more weight; the last few mixed; the last Z."""
    first = next(rounds)
    mean, last = first.point, deque([first], maxlen=CYCLE)
    for k, found in enumerate(rounds, 2):
        mean = mean + (found.point - mean) * 3 / (k + 2)
        last.append(found)
    points, multipliers = zip(*last, strict=True)
    lefts = [normal_part(to_tangent, z - d) - z for d, z in last]
    return mean, mixture(shares(lefts, ndim), points, ndim), multipliers[-1]


def normal_part(to_tangent: ToTangent, z: Tensor) -> Tensor:
    """The nearest multiplier: <Z, A> >= 0 for every tangent A, and = 0 where -A is one too."""
    return z + to_tangent(-z)


def shares(lefts: Sequence[Tensor], ndim: int) -> Tensor:
    """Of the mixture of n tensors that is shortest: (..., n, 1), in all one."""
    rows = torch.stack([flat(each, ndim) for each in lefts], -2)
    gram = (rows @ rows.mT).double()
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    ridge = RIDGE * torch.eye(len(lefts), dtype=gram.dtype, device=gram.device)
    relative = torch.where(size > 0, gram / size, 0.0) + ridge
    found = torch.linalg.solve_ex(relative, torch.ones_like(gram[..., :1]))[0]
    return found / found.sum(-2, keepdim=True)


def mixture(weights: Tensor, points: Sequence[Tensor], ndim: int) -> Tensor:
    """sum_k weights_k points_k"""
    rows = torch.stack([flat(each, ndim) for each in points], -2)
    return (weights.to(rows.dtype) * rows).sum(-2).reshape(points[0].shape)


def length(x: Tensor, ndim: int) -> Tensor:
    """|x|_F of each weight, with dims of size one in the place of its own."""
    return torch.linalg.vector_norm(x, dim=tuple(range(-ndim, 0)), keepdim=True)
