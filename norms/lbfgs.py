"""L-BFGS: the least value of a convex function, for a batch of problems at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from modula.norms.numerics import ratio

MEMORY = 40  # pairs (step, change of gradient) that L-BFGS remembers
TRIALS = 30  # lengths that a line search tries
SUFFICIENT, FLATTER = 1e-4, 0.9  # the weak Wolfe conditions: fall, and slope, of a step

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
Pair = tuple[Tensor, Tensor, Tensor]  # step, change of gradient, 1 / their product or 0


def minimise(f: Slope, start: Tensor, iterations: int) -> Tensor:
    """The point with the least f found by L-BFGS with a weak Wolfe search, x: (batch, n).

    `f` gives values (batch,) and gradients (batch, n).  A problem is finished when two steps
    together lower its value by no more than a rounding error.
    Source: Nocedal 1980, doi:10.1090/S0025-5718-1980-0572855-7; Lewis and Overton 2013,
    doi:10.1007/s10107-012-0514-2 (the search, and what it does where f has kinks).
    """
    x = start
    value, slope = f(x)
    eps = torch.finfo(x.dtype).eps
    pairs: list[Pair] = []
    idle = torch.zeros_like(value)  # steps in a row that were not worth taking
    for _ in range(iterations):
        active = (idle < 2).unsqueeze(-1)
        if not active.any():
            break
        step = _search(f, x, value, slope, -_inverse_hessian(pairs, slope), active)
        reached, new = f(x + step)
        better = (reached < value).unsqueeze(-1)
        idle = torch.where(value - reached > 2 * eps * value.abs(), 0 * idle, idle + 1)
        step, change = (torch.where(better, each, 0 * each) for each in (step, new - slope))
        curvature = _dot(step, change).clamp(min=0)
        pairs = [*pairs[1 - MEMORY :], (step, change, ratio(torch.ones_like(curvature), curvature))]
        x, slope, value = x + step, slope + change, torch.minimum(value, reached)
    return x


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.vecdot(x, y).unsqueeze(-1)


def _inverse_hessian(pairs: list[Pair], slope: Tensor) -> Tensor:
    """The two-loop recursion; a pair without positive curvature has no weight."""
    q, shares = slope, []
    for step, change, weight in reversed(pairs):
        shares.append(weight * _dot(step, q))
        q = torch.addcmul(q, shares[-1], change, value=-1)
    if pairs:
        step, change, _ = pairs[-1]
        curvature = ratio(_dot(step, change), _dot(change, change))
        q = q * torch.where(curvature > 0, curvature, torch.ones_like(curvature))
    for (step, change, weight), share in zip(pairs, reversed(shares), strict=True):
        q = torch.addcmul(q, share - weight * _dot(change, q), step)
    return q


def _search(
    f: Slope, x: Tensor, value: Tensor, slope: Tensor, down: Tensor, active: Tensor
) -> Tensor:
    """t * down, with t doubled while the slope is steep and halved while f falls too little."""
    down = torch.where(_dot(slope, down) < 0, down, -slope)
    fall = _dot(slope, down)
    low, t = torch.zeros_like(fall), torch.ones_like(fall)
    high = torch.full_like(fall, torch.inf)
    for _ in range(TRIALS):
        reached, new = f(x + t * down)
        far = active & ~(reached.unsqueeze(-1) <= value.unsqueeze(-1) + SUFFICIENT * t * fall)
        steep = active & ~far & (_dot(new, down) < FLATTER * fall)
        if not (far | steep).any():
            break
        high, low = torch.where(far, t, high), torch.where(steep, t, low)
        between = torch.where(high < torch.inf, (low + high) / 2, 2 * t)
        t = torch.where(far | steep, between, t)
    return t * down
