"""The steepest unit step into a region's cone, for any norm: the general solver at a boundary.

The tangents may as well be a convex cone, as at the boundary of a region: then -Z makes no sharp
angle with any of them, which is all that the bound needs.  What a cone changes: -D has to be in
it, not D, since that is the step; and the normal part of G matters, since it can forbid to move.
"""

import torch
from torch import Tensor

from modula.duality.rules.solvers.general import (
    NOISE,
    ROUNDS,
    best_feasible,
    common_ndim,
    inner,
    made_feasible,
)
from modula.duality.rules.solvers.splitting import ToTangent, length
from modula.kernels.elementwise.length import normalise
from modula.manifolds.region import Region
from modula.norms.base import Norm


def steepest_in_region(
    norm: Norm, region: Region, weight: Tensor, gradient: Tensor, rounds: int = ROUNDS
) -> Tensor:
    """argmax <G, D> over ||D|| <= 1 with -D in the cone at the weight, nearly.

    weight, gradient: (..., *weight), the gradient whole.  Zero where every step of the cone climbs.
    """
    ndim = common_ndim(norm, region)
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
    sure = made_feasible(norm, to_tangent, slope, ndim)
    found, _ = best_feasible(norm, to_tangent, descent, ndim, rounds)
    best = torch.where(inner(descent, found - sure, ndim) > 0, found, sure)
    some = length(slope, ndim) > NOISE * torch.finfo(descent.dtype).eps
    return torch.where(some, best, 0.0)
