"""Products of matrices that are known to be symmetric: nearly half of the work can be left out."""

from collections.abc import Callable

import torch
from torch import Tensor

# Rows computed at a time on CPU.  Narrower strips skip more of the upper triangle; wider ones run
# nearer to the peak of a matrix product and make threads wait for each other less often.
STRIP = 192


def symmetric_product(
    x: Tensor, y: Tensor, *, add: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """alpha x y + beta add, for x: (n, k), y: (k, n) whose product and `add` are symmetric.

    On CPU a large matrix is computed in strips of rows, each up to the diagonal, and mirrored:
    (1 + STRIP / n) / 2 of the operations.  Any batch dims; batches are multiplied whole.
    """
    if not _in_strips(x, y):
        return multiply_add(x, y, add=add, beta=beta, alpha=alpha)
    return _mirrored(x, y, add, beta, alpha, sign=1.0)


def skew_product(x: Tensor, y: Tensor) -> Tensor:
    """x y, for x: (n, k), y: (k, n) whose product is skew: exactly skew, rounding included."""
    if not _in_strips(x, y):
        product = x @ y
        return (product - product.mT) / 2
    out = _mirrored(x, y, None, 0.0, 1.0, sign=-1.0)
    for top in range(0, len(out), STRIP):
        block = out[top : top + STRIP, top : top + STRIP]
        block.copy_((block - block.mT) / 2)
    return out


def _mirrored(
    x: Tensor, y: Tensor, add: Tensor | None, beta: float, alpha: float, sign: float
) -> Tensor:
    """The strips below the diagonal, and sign times their transposes above it."""
    n = x.shape[0]
    out = x.new_empty(n, n)
    for top in range(0, n, STRIP):
        end = min(top + STRIP, n)
        strip, rows, columns = out[top:end, :end], x[top:end], y[:, :end]
        # beta = 0 ignores what the fresh memory holds, NaN included.
        base, weight = (strip, 0.0) if add is None else (add[top:end, :end], beta)
        torch.addmm(base, rows, columns, beta=weight, alpha=alpha, out=strip)
        out[:top, top:end] = strip[:, :top].mT if sign > 0 else -strip[:, :top].mT
    return out


def multiply_add(
    x: Tensor, y: Tensor, *, add: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """alpha x y + beta add in one pass over the result, for matrices or one batch dim of them."""
    if add is None:
        return x @ y if alpha == 1.0 else alpha * (x @ y)
    fused = torch.addmm if x.ndim == 2 else torch.baddbmm
    return fused(add, x, y, beta=beta, alpha=alpha)


def add_product_(out: Tensor, x: Tensor, y: Tensor, alpha: float = 1.0) -> Tensor:
    """out += alpha x y, without a copy; for matrices or one batch dim of them."""
    return out.addmm_(x, y, alpha=alpha) if out.ndim == 2 else out.baddbmm_(x, y, alpha=alpha)


def one_by_one(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """function(*batches), for tensors (..., m, n) of one shape and a function that takes batches.

    Large matrices on CPU, and single ones, are given to it without batch dims: they gain more from
    symmetric_product's strips than from a batch.
    """
    shape = batches[0].shape
    flat = [x.reshape(-1, *shape[-2:]) for x in batches]
    if len(flat[0]) == 1:
        return function(*(x[0] for x in flat)).reshape(shape)
    if batches[0].device.type == "cpu" and min(shape[-2:]) > 2 * STRIP:
        return torch.stack([function(*each) for each in zip(*flat, strict=True)]).reshape(shape)
    return function(*flat).reshape(shape)


def _in_strips(x: Tensor, y: Tensor) -> bool:
    recorded = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    return x.ndim == 2 and x.device.type == "cpu" and x.shape[0] > 2 * STRIP and not recorded
