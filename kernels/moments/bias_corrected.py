r"""Inverses and inverse roots of noisy estimates, corrected for their bias.

    E f(x) = f(mean) + f''(mean) Var(x) / 2 + ...

so that f(x) = x^-p is too large by p (p + 1) / 2 x^(-p-2) Var(x) on average: the delta rule takes
that away.  The noise is told by g_1 ... g_M, the gradients of the microbatches of a step, stacked
as (M, *weight); their mean is the gradient.

Source: Nayak et al. 2026, arXiv:2605.20756.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modula.kernels.elementwise.averages import newest
from modula.kernels.moments import root, second_moment
from modula.kernels.op import Op, elementwise_cost


def less_bias(x: Tensor, variance: Tensor, power: float) -> Tensor:
    """x^-p - p (p + 1) / 2 x^(-p-2) Var(x), at least 0, for x > 0."""
    return x**-power * (1 - power * (power + 1) / 2 * (variance / x / x)).clamp(min=0)


def scatter(x: Tensor, dim: int = 0) -> Tensor:
    """Mean square distance from the mean, along `dim`."""
    # Tensor.var took ten times as long.
    return (x - x.mean(dim, keepdim=True)).square().mean(dim)


def jackknife(x: Tensor, dim: int = 0) -> Tensor:
    """Variance of an estimate, from its M values with one of M samples left out.

        (M - 1) / M sum_r (x_r - their mean)^2        M: along `dim`, which goes away

    Source: Tukey 1958, Annals of Mathematical Statistics 29.
    """
    return (x.shape[dim] - 1) * scatter(x, dim)


def without_each(parts: Tensor, dim: int = 0) -> Tensor:
    """For each microbatch the mean gradient of all others: M along `dim`."""
    mean = parts.mean(dim, keepdim=True)
    return mean + (mean - parts) / (parts.shape[dim] - 1)


def as_stepped_plain(gradient: Tensor, parts: Tensor) -> Tensor:
    """Microbatch gradients g_r, scaled as their mean was since: by clipping, unscaling, negation.

        c g_r,   c = <g, mean> / <mean, mean>

    gradient g: (*weight), parts g_r: (M, *weight)
    """
    mean = parts.mean(0)
    size = mean.abs().amax()
    unit = mean / torch.where(size > 0, size, 1.0)
    factor = (gradient * unit).sum() / (mean * unit).sum()
    return parts * torch.where(size > 0, factor, 1.0)


def cross_fitted_plain(
    query: Tensor,
    parts: Tensor,
    square: Tensor,
    step: Tensor,
    *,
    momentum: float,
    beta: float,
    power: float,
    floor: float,
) -> Tensor:
    """u - Var_r(x) mean_r m_r / x_r^3 for u = mean_r m_r / x_r, kept between 0 and u.

        x_r = S_r^power + floor,   S_r = S + w_2 ((mean of g_j, j != r)^2 - S)
        m_r = m + w_1 (g_r - mean)

    query    m, which has seen the whole batch: (*weight)
    square   S before this step: (*weight)
    w_1, w_2 weights of the newest of `step` gradients in unbiased averages of momentum and beta
    """
    share, fresh = (newest(step, rate).to(parts.dtype) for rate in (momentum, beta))
    rest = len(parts) - 1
    mean = parts.mean(0)
    apart = parts - mean
    # From here on in place: memory for M gradients costs more than the arithmetic.
    x = (mean - apart / rest).square_()
    x.lerp_(square, 1 - fresh).pow_(power).add_(floor)
    deviation = ((x - x.mean(0)).square_().sum(0) / rest).sqrt()
    inverse = x.masked_fill_(x == 0, torch.inf).reciprocal_()
    fitted = apart.mul_(share).add_(query).mul_(inverse)
    u = fitted.mean(0)
    corrected = u - inverse.mul_(deviation).square_().mul_(fitted).mean(0)
    return corrected.minimum(u.clamp(min=0)).maximum(u.clamp(max=0))


def average_part_squares_plain(square: Tensor, parts: Tensor, *, beta: float) -> Tensor:
    """beta S + (1 - beta) sum_r g_r^2 / M^2, which has the mean of g^2 if gradients have mean 0."""
    return square.lerp(parts.square().mean(0) / len(parts), 1 - beta)


def corrected_inverse_plain(
    square: Tensor, parts: Tensor, *, beta: float, power: float, floor: float, batch: float
) -> Tensor:
    """1 / x - Var(x) / x^3 for x = (batch S)^power + floor, where the newest part of S is noisy.

    square  S that these parts are in, by `average_part_squares`: (*weight)
    """
    newest_squares = parts.square() / len(parts)
    each = square + (1 - beta) * (newest_squares - newest_squares.mean(0))
    x, varied = ((batch * s.clamp(min=0)) ** power + floor for s in (square, each))
    safe = torch.where(x > 0, x, 1.0)
    return less_bias(safe, scatter(varied) / (len(parts) - 1), 1.0)


def corrected_root_plain(
    factor: Tensor,
    previous: Tensor,
    seen: Tensor,
    parts: Tensor,
    *,
    blocks: int,
    dim: int,
    ndim: int,
    share: float,
    beta: float,
    unbiased: bool,
    **how: float,
) -> Tensor:
    """root.inverse_root of a factor, the power of each eigenvalue less its bias.

        Var = w^2 jackknife(x),   x_r = share ||row of Q^T mat_i(mean of g_j, j != r)||^2

    factor, previous: (..., *blocks, d, d), seen: (..., *blocks), parts: (..., M, *blocks, *block)

    w       weight of the newest gradient in the factor, which is averaged with dim, ndim, share,
            beta and unbiased as in second_moment.average_gram
    blocks  how many dims count blocks
    how     options of root.inverse_root
    """
    rows = _rows_without_each(parts, blocks, dim, ndim)
    weight = share * _newest(seen, beta, unbiased) / second_moment.mean_eigenvalue(factor, 2)
    rows = _weighted(rows, weight, blocks)

    def roots(values: Tensor, basis: Tensor) -> Tensor:
        turned = basis.mT.unsqueeze(-3 - blocks) @ rows
        variance = jackknife(turned.square().sum(-1), -2 - blocks)
        return less_bias(values, variance, how["power"])

    return root.inverse_root_plain(factor, previous, roots=roots, **how)


def corrected_root_diagonal_plain(
    factor: Tensor,
    previous: Tensor,
    seen: Tensor,
    parts: Tensor,
    *,
    blocks: int,
    dim: int,
    ndim: int,
    share: float,
    beta: float,
    unbiased: bool,
    **how: float,
) -> Tensor:
    """The same for the diagonals of factors, as in second_moment.average_gram: (..., d)."""
    rows = _rows_without_each(parts, blocks, dim, ndim)
    weight = share * _newest(seen, beta, unbiased) / second_moment.mean_eigenvalue(factor, 1)
    rows = _weighted(rows, weight, blocks)
    variance = jackknife(rows.square().sum(-1), -2 - blocks)

    def roots(values: Tensor) -> Tensor:
        return less_bias(values, variance, how["power"])

    return root.inverse_root_diagonal_plain(factor, previous, roots=roots, **how)


def _rows_without_each(parts: Tensor, blocks: int, dim: int, ndim: int) -> Tensor:
    return second_moment.unfold(without_each(parts, -1 - blocks - ndim), dim, ndim)


def _weighted(rows: Tensor, weight: Tensor, blocks: int) -> Tensor:
    """rows whose squares are `weight` times as large: before a fourth power leaves float32."""
    return rows * weight.sqrt().unsqueeze(-1 - blocks)[..., None, None]


def _newest(seen: Tensor, beta: float, unbiased: bool) -> Tensor:
    """Weight of the newest of the samples in a factor."""
    if beta == 1:
        return torch.ones_like(seen)
    return second_moment.step_weight(seen, beta, unbiased)


def _each(plain: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """A foreach twin that takes one weight at a time, since parts are M times its size."""

    def foreach(*lists: list[Tensor], **options: Any) -> list[Tensor]:
        return [plain(*tensors, **options) for tensors in zip(*lists, strict=True)]

    return foreach


def _op(name: str, plain: Callable[..., Tensor], flops: float, passes: int) -> Op:
    """An op over the parts of each weight; its cost is that of one part."""
    cost = elementwise_cost(flops, passes)
    return Op(name, plain, cost, foreach=_each(plain), can_fail=False)


as_stepped = _op("as_stepped", as_stepped_plain, 5, 4)
cross_fitted = _op("cross_fitted", cross_fitted_plain, 20, 10)
average_part_squares = _op("average_part_squares", average_part_squares_plain, 4, 3)
corrected_inverse = _op("corrected_inverse", corrected_inverse_plain, 10, 6)
corrected_root = Op("corrected_root", corrected_root_plain, root.inverse_root.cost)
corrected_root_diagonal = Op(
    "corrected_root", corrected_root_diagonal_plain, root.inverse_root_diagonal.cost
)
