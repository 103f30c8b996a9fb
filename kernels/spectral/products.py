"""The matrix products that polar factors and roots are made of; symmetric ones cost half.

    gram(x)                 x x^T
    symmetric_product(x, y) alpha x y + beta add + gamma I, where that is symmetric
    left_multiply(z, x)     alpha z x + beta x for a symmetric z

In these three ops is nearly all arithmetic of `polar`: fused twins of them are what it takes to
make it, and all that is built on it, fast on an accelerator.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modula.kernels.op import Cost, Op, Shape, Twin

# Rows computed at a time on CPU.  Narrower strips skip more of the upper triangle; wider ones run
# nearer to the peak of a matrix product and make threads wait for each other less often.
STRIP = 192


def symmetric(x: Tensor) -> Tensor:
    """The symmetric part (X + X^T) / 2, for x: (..., n, n)."""
    return (x + x.mT).div_(2)


def skew(x: Tensor) -> Tensor:
    """The skew part (X - X^T) / 2, for x: (..., n, n)."""
    return (x - x.mT).div_(2)


def gram_plain(x: Tensor) -> Tensor:
    """x x^T: (..., n, k) -> (..., n, n)."""
    return symmetric_product_plain(x, x.mT)


def symmetric_product_plain(
    x: Tensor,
    y: Tensor,
    add: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.0,
) -> Tensor:
    """alpha x y + beta add + gamma I, for x: (n, k), y: (k, n) with symmetric x y and add.

    On CPU a large matrix is computed in strips of rows, each up to the diagonal, and mirrored:
    (1 + STRIP / n) / 2 of the operations.  Batches are multiplied whole: of any dims, but with
    `add` of one.
    """
    if _in_strips(x, y):
        out = _mirrored(x, y, add, beta, alpha, sign=1.0)
    else:
        out = multiply_add(x, y, add=add, beta=beta, alpha=alpha)
    if gamma:
        out.diagonal(dim1=-2, dim2=-1).add_(gamma)
    return out


def left_multiply_plain(z: Tensor, x: Tensor, *, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    """alpha z x + beta x for symmetric z: (..., n, n) and x: (..., n, m), laid out as x is."""
    # A transposed x stays one: x^T z is the same product, and nothing is copied on the way.
    if x.mT.is_contiguous():
        return multiply_add(x.mT, z, add=x.mT if beta else None, beta=beta, alpha=alpha).mT
    return multiply_add(z, x, add=x if beta else None, beta=beta, alpha=alpha)


def skew_product(x: Tensor, y: Tensor) -> Tensor:
    """x y, for x: (n, k), y: (k, n) whose product is skew: exactly skew, rounding included."""
    if not _in_strips(x, y):
        return skew(x @ y)
    out = _mirrored(x, y, None, 0.0, 1.0, sign=-1.0)
    for top in range(0, len(out), STRIP):
        block = out[top : top + STRIP, top : top + STRIP]
        block.copy_(skew(block))
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
    """alpha x y + beta add, in one pass over the result up to one batch dim."""
    if add is None:
        return x @ y if alpha == 1.0 else alpha * (x @ y)
    if x.ndim > 3:
        return torch.add(beta * add, x @ y, alpha=alpha)
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


def _gram_cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    """Of an x of this shape; symmetric products are counted whole, as small ones are computed."""
    batch, (n, k) = prod(shape[:-2]), shape[-2:]
    return Cost(2.0 * batch * n * n * k, 1.0 * itemsize * batch * (n * k + n * n))


def _symmetric_cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    batch, (n, k) = prod(shape[:-2]), shape[-2:]
    return Cost(2.0 * batch * n * n * k, 1.0 * itemsize * batch * (2 * n * k + n * n))


gram = Op("gram", gram_plain, _gram_cost)
symmetric_product = Op("symmetric_product", symmetric_product_plain, _symmetric_cost)
# Of x: z x takes as many operations as x x^T, and one more matrix of its shape is written.
left_multiply = Op("left_multiply", left_multiply_plain, _symmetric_cost)


class ProductTwins(NamedTuple):
    """The twins of the three ops that run on one kind of tensor."""

    gram: Twin
    symmetric_product: Twin
    left_multiply: Twin


def product_twins(x: Tensor) -> ProductTwins:
    """The twins for tensors like x: looked up once, not at each of a polar factor's 15 products."""
    cuda = x.is_cuda
    return ProductTwins(
        gram.twin(cuda, lists=False),
        symmetric_product.twin(cuda, lists=False),
        left_multiply.twin(cuda, lists=False),
    )
