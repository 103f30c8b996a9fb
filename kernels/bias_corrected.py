r"""Inverses of estimates, less the bias that their noise gives them.

    E f(x) = f(mean) + f''(mean) Var(x) / 2 + ...

so that f(x) = x^-p is too large by p (p + 1) / 2 x^(-p-2) Var(x) on average: the delta rule takes
that away.  The noise is told by g_1 ... g_M, the gradients of the microbatches of a step, stacked
as (M, *weight); their mean is the gradient.

Source: Nayak et al. 2026, arXiv:2605.20756.
"""

import torch
from torch import Tensor

from modula.kernels import root, second_moment
from modula.kernels.apply import newest
from modula.kernels.op import Cost, Locality, Op, Shape, elementwise_cost

Tensors = list[Tensor]


def less_bias(x: Tensor, variance: Tensor, power: float) -> Tensor:
    """x^-p - p (p + 1) / 2 x^(-p-2) Var(x), at least 0, for x > 0."""
    return x**-power * (1 - power * (power + 1) / 2 * (variance / x / x)).clamp(min=0)


def jackknife(x: Tensor, dim: int = 0) -> Tensor:
    """Variance of an estimate, from its M values with one of M samples left out.

        (M - 1) / M sum_r (x_r - their mean)^2        M: along `dim`, which goes away

    Source: Tukey 1958, Annals of Mathematical Statistics 29.
    """
    return (x.shape[dim] - 1) * x.var(dim, correction=0)


def without_each(parts: Tensor, dim: int = 0) -> Tensor:
    """For each microbatch the mean gradient of all others: M along `dim`."""
    mean = parts.mean(dim, keepdim=True)
    return mean + (mean - parts) / (parts.shape[dim] - 1)


def as_stepped_plain(gradient: Tensor, parts: Tensor) -> Tensor:
    """The g_r times what their mean was multiplied by since: clipped, unscaled, or negated.

        c g_r,   c = <g, mean> / <mean, mean>        gradient: (*weight), parts: (M, *weight)
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
    """mean_r m_r / x_r - Var_r(x) mean_r m_r / x_r^3, or 0 where that has turned around.

        x_r = S_r^power + floor,   S_r = S + w_2 ((mean of g_j, j != r)^2 - S)
        m_r = m + w_1 (g_r - mean)

    query    m, which has seen the whole batch: (*weight)
    square   S before this step: (*weight)
    w_1, w_2 weights of the newest of `step` gradients in unbiased averages of momentum and beta
    """
    share, fresh = newest(float(step), momentum), newest(float(step), beta)
    x = torch.lerp(square, without_each(parts).square(), fresh) ** power + floor
    inverse = torch.where(x > 0, 1 / x, 0.0)
    fitted = (query + share * (parts - parts.mean(0))) * inverse
    bias = x.var(0) * inverse * inverse
    mean, corrected = fitted.mean(0), (fitted * (1 - bias)).mean(0)
    return torch.where(mean.sign() == corrected.sign(), corrected, 0.0)


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
    return less_bias(safe, varied.var(0) / len(parts), 1.0)


def corrected_root_plain(
    factor: Tensor,
    previous: Tensor,
    seen: Tensor,
    parts: Tensor,
    *,
    power: float,
    damping: float,
    dim: int,
    ndim: int,
    share: float,
    beta: float,
    unbiased: bool,
    trace_power: float = 0.0,
) -> Tensor:
    """root.inverse_root of a factor, each eigenvalue's power less its bias.

    factor, previous: (..., *blocks, d, d), seen: (..., *blocks), parts: (..., M, *blocks, *block)
    dim, ndim, share, beta, unbiased   as the factor is averaged, see second_moment
    """
    weight = 1.0 if beta == 1 else second_moment.step_weight(seen, beta, unbiased)
    rows = second_moment.unfold(without_each(parts, ...), dim, ndim)
    return root.inverse_root_plain(factor, previous, power=power, damping=damping)
