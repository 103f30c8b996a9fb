r"""Steps of PSGD on Q = (I + U V^T) diag(d) for S^-1/2 = Q^T Q, over the N entries of a weight.

    X = a a^T + noise Q Q^T - Q^-T Q^-1,  a = Q g           g, d: (..., *weight), U, V: (..., N, r)

Gradients are taken to have noise of their own, of the mean square damping mean(g^2): it bounds P
where g is zero for long.  What X is made of is called a pull, which shrinks Q, and a push.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.moments.factors import gain_of
from modula.kernels.moments.psgd import rate_now
from modula.kernels.moments.samples import entries, over
from modula.kernels.op import Cost, Op, Shape, elementwise_cost


def core(left: Tensor, right: Tensor) -> Tensor:
    """I + V^T U: (..., r, r)"""
    eye = torch.eye(left.shape[-1], dtype=left.dtype, device=left.device)
    return right.mT @ left + eye


def solved(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix^-1 x, without a look at whether it exists: group steps keep it."""
    return torch.linalg.solve_ex(matrix, x)[0]


def moved(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(I + U V^T) x, for x: (..., N, k)"""
    return x + left @ (right.mT @ x)


def moved_back(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(I + U V^T)^-1 x"""
    return x - left @ solved(core(left, right), right.mT @ x)


def row_squares(left: Tensor, right: Tensor) -> Tensor:
    """The squared lengths of the rows of I + V U^T: (..., N)"""
    inner = (left * right).sum(-1)
    return 1 + 2 * inner + (right * (right @ (left.mT @ left))).sum(-1)


def push_scale_plain(scale: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The diagonal of P^-1, P = Q^T Q: (..., *weight)"""
    inward = -solved(core(left, right).mT, left.mT).mT  # (I + U V^T)^-1 = I + inward V^T
    return row_squares(right, inward).reshape(scale.shape) / scale.square()


def pull_scale_plain(
    white: Tensor, sample: Tensor, scale: Tensor, left: Tensor, right: Tensor, *, damping: float
) -> Tensor:
    """P g * g + noise diag P, entry by entry: (..., *weight)"""
    counted = left[..., 0, 0]
    back = moved(entries(white, counted)[..., None], right, left).reshape(scale.shape)
    squares = row_squares(left, right).reshape(scale.shape) * scale.square()
    return torch.addcmul(
        scale * back * sample, over(noise(sample, counted, damping), scale), squares
    )


def noise(sample: Tensor, counted: Tensor, damping: float) -> Tensor:
    """damping mean(g^2): (...)"""
    return damping * entries(sample, counted).square().mean(-1)


def pull_plain(
    white: Tensor,
    sample: Tensor,
    scale: Tensor,
    left: Tensor,
    right: Tensor,
    through: Tensor,
    *,
    damping: float,
) -> Tensor:
    """(a a^T + noise Q Q^T) W for W: (..., N, r)"""
    counted = left[..., 0, 0]
    a, d = (entries(x, counted)[..., None] for x in (white, scale))
    noisy = moved(d.square() * moved(through, right, left), left, right)
    return torch.addcmul(a @ (a.mT @ through), over(noise(sample, counted, damping), noisy), noisy)


def push_plain(scale: Tensor, left: Tensor, right: Tensor, through: Tensor) -> Tensor:
    """Q^-T Q^-1 W for W: (..., N, r)"""
    d = entries(scale, left[..., 0, 0])[..., None]
    return moved_back(moved_back(through, left, right) / d.square(), right, left)


def size_gain_plain(
    pull: Tensor, push: Tensor, fresh: Tensor, seen: Tensor, *, beta: float
) -> Tensor:
    """The gain for r = g^T P g / trace(P^-1), 1 at the optimum: the sums of pull and push."""
    return gain_of(entries(pull, seen).sum(-1) / entries(push, seen).sum(-1), fresh, seen, beta)


def bound_scale_plain(
    bound: Tensor, fresh: Tensor, pull: Tensor, push: Tensor, *, beta: float
) -> Tensor:
    """L <- max(beta L + (1 - beta) l, l), l = max pull + max push: (...)"""
    now = entries(pull, bound).amax(-1) + entries(push, bound).amax(-1)
    return _risen(bound, fresh, now, beta)


def bound_plain(
    bound: Tensor, fresh: Tensor, pull: Tensor, push: Tensor, through: Tensor, *, beta: float
) -> Tensor:
    """The same for l = ||pull W^T||_F + ||push W^T||_F."""
    gram = through.mT @ through
    up, down = (((x.mT @ x) * gram).sum((-2, -1)).clamp(min=0).sqrt() for x in (pull, push))
    return _risen(bound, fresh, up + down, beta)


def _risen(bound: Tensor, fresh: Tensor, now: Tensor, beta: float) -> Tensor:
    return torch.where(fresh > 0, torch.maximum(bound.lerp(now, 1 - beta), now), bound)


def change_left_plain(pull: Tensor, push: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """X V (I + V^T U)"""
    return (pull - push) @ core(left, right)


def change_right_plain(pull: Tensor, push: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(I + V U^T) X U"""
    return moved(pull - push, right, left)


def stepped_plain(
    x: Tensor,
    change: Tensor,
    bound: Tensor,
    fresh: Tensor,
    seen: Tensor,
    *,
    rate: float,
    last_rate: float,
    horizon: float,
) -> Tensor:
    """x - mu / L change, where there was a sample."""
    size = fresh * rate_now(seen, bound, rate, last_rate, horizon)
    return x - over(size, x) * change


def change_scale_plain(pull: Tensor, push: Tensor, scale: Tensor) -> Tensor:
    """(pull - push) d, entry by entry."""
    return (pull - push) * scale


def ratio_plain(left: Tensor, right: Tensor) -> Tensor:
    """||U||_F / ||V||_F, or 1 where one of them is zero: (...)"""
    sizes = [torch.linalg.vector_norm(x, dim=(-2, -1)) for x in (left, right)]
    return torch.where((sizes[0] > 0) & (sizes[1] > 0), sizes[0] / sizes[1], 1.0)


def _grams(grams: int) -> Callable[..., Cost]:
    """Cost of so many products of (N, r) with r columns, or rows."""

    def cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
        return Cost(2.0 * grams * prod(shape) * shape[-1], 2.0 * grams * itemsize * prod(shape))

    return cost


push_scale = Op("push_scale", push_scale_plain, _grams(3))
pull_scale = Op("pull_scale", pull_scale_plain, _grams(2))
pull = Op("pull", pull_plain, _grams(4))
push = Op("push", push_plain, _grams(6))
size_gain = Op("size_gain", size_gain_plain, elementwise_cost(2, 2))
bound_scale = Op("bound_scale", bound_scale_plain, elementwise_cost(2, 2))
bound = Op("bound", bound_plain, _grams(3))
change_left = Op("change_left", change_left_plain, _grams(2))
change_right = Op("change_right", change_right_plain, _grams(2))
change_scale = Op("change_scale", change_scale_plain, elementwise_cost(2, 4))
stepped = Op("stepped", stepped_plain, elementwise_cost(2, 3))
ratio = Op("ratio", ratio_plain, elementwise_cost(4, 2))
