r"""Steps of PSGD on the factors K_i = Q_i^T of S^-1/2 = (K_1 K_1^T) x ... x (K_k K_k^T).

What does not carry a sample (`fresh` is zero) changes nothing.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.moments.factors import (
    gain_of,
    grown,
    mean_squares,
    product_cost,
    square_plain,
    transposed_square,
)
from modula.kernels.moments.samples import entries, over
from modula.kernels.moments.second_moment import moment as moment_along
from modula.kernels.moments.structure import FULL, Pattern
from modula.kernels.op import Cost, Op, Shape, elementwise_cost

FARTHEST = 1 / 8  # of a rotation: its angle, relative to the asymmetry's size


def whitened_moment_plain(
    white: Tensor,
    sample: Tensor,
    inverse: Tensor,
    *others: Tensor,
    dim: int,
    ndim: int,
    share: float,
    damping: float,
    kinds: tuple[Pattern, ...],
) -> Tensor:
    """share mat_i(W) mat_i(W)^T + f P_i for W = G x_1 P_1 ... x_k P_k, or its diagonal.

        f = sqrt(damping mean(G^2) prod_j mean eigenvalue(P_j^2))       j: the other dims

    Where this is I, S_i = P_i^-2 has no eigenvalue below f^2: without the first term P_i = I / f.
    f^2 is `damping` times what gradients of the same size without structure give for S_i.
    kinds  of P_i and the others
    """
    new = moment_along(white, kinds[0], dim=dim, ndim=ndim, share=share)
    if not damping:
        return new
    floor = (damping * _noise(sample, others, kinds, ndim)).sqrt()
    return torch.addcmul(new, inverse, over(floor, inverse))


def _noise(
    sample: Tensor, others: tuple[Tensor, ...], kinds: tuple[Pattern, ...], ndim: int
) -> Tensor:
    """mean(G^2) prod_j mean eigenvalue(X_j X_j^T): what noise as large as G adds to S_i."""
    squares = mean_squares(others, kinds[1:], sample)
    counted = sample.shape[: sample.ndim - ndim]
    return sample.reshape(*counted, -1).square().mean(-1) * squares


def spectral_guess(x: Tensor) -> Tensor:
    """A lower bound on the largest eigenvalue, close to it: (..., d, d), x >= 0, to (...).

    Two power iterations from the column of the largest diagonal entry.
    """
    # Not a drawn start: equal samples give equal steps, and this column is zero only where x is.
    at = x.diagonal(dim1=-2, dim2=-1).argmax(-1)
    v = x.take_along_dim(at[..., None, None], -1)
    for _ in range(2):
        v = x @ (v / _length(v, (-2, -1)))
    return torch.linalg.vector_norm(v, dim=(-2, -1))


def _length(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """||x||, one where it is zero, so that it can divide."""
    size = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
    return torch.where(size > 0, size, 1.0)


def running_bound_plain(
    bound: Tensor, fresh: Tensor, moment: Tensor, *prior: Tensor, beta: float, kind: Pattern
) -> Tensor:
    """L <- max(beta L + (1 - beta) l, l) for l = ||moment + prior||, the prior I if none is given.

    A Lipschitz constant that rises at once and falls slowly: (...)
    """
    whole = moment + prior[0] if prior else moment
    sizes = whole if kind.ndim == 1 else spectral_guess(whole)
    now = entries(sizes, bound).amax(-1)
    now = now if prior else now + 1
    return torch.where(fresh > 0, torch.maximum(bound.lerp(now, 1 - beta), now), bound)


def rate_now(seen: Tensor, bound: Tensor, rate: float, last_rate: float, horizon: float) -> Tensor:
    """mu / L with mu = max(last_rate, rate / sqrt(1 + seen / horizon)): (...)"""
    mu = (rate * (1 + seen / horizon).rsqrt()).clamp(min=last_rate)
    return mu / torch.where(bound > 0, bound, 1.0)


def whitening_step_plain(
    root: Tensor,
    moment: Tensor,
    bound: Tensor,
    gauge: Tensor,
    fresh: Tensor,
    seen: Tensor,
    *,
    rate: float,
    last_rate: float,
    horizon: float,
    kind: Pattern,
) -> Tensor:
    """PRO: K (I - mu / L (moment - I)) / sqrt(gauge), which rests where the moment is I."""
    size = fresh * rate_now(seen, bound, rate, last_rate, horizon)
    change = kind.add_identity_(moment * over(-size, moment), size)
    return grown(root, change, kind) * over(gauge.rsqrt(), root)


def triangular_step_plain(
    root: Tensor,
    moment: Tensor,
    prior: Tensor,
    bound: Tensor,
    gauge: Tensor,
    fresh: Tensor,
    seen: Tensor,
    *,
    rate: float,
    last_rate: float,
    horizon: float,
    kind: Pattern,
) -> Tensor:
    """EQ: K (I - mu / L tril(moment - prior)) / sqrt(gauge), lower triangular as K is."""
    size = fresh * rate_now(seen, bound, rate, last_rate, horizon)
    change = (prior - moment) * over(size, moment)
    change = change if kind.ndim == 1 else change.tril()
    return grown(root, change, kind) * over(gauge.rsqrt(), root)


def triangular_moment_plain(
    white: Tensor,
    sample: Tensor,
    root: Tensor,
    *others: Tensor,
    dim: int,
    ndim: int,
    share: float,
    damping: float,
    kinds: tuple[Pattern, ...],
) -> Tensor:
    """share A A^T for A = mat_i(G x_1 K_1^T ... x_k K_k^T), as if G had noise of its own.

    The noise has the mean square damping mean(G^2); it is integrated out, not drawn.
    """
    new = moment_along(white, kinds[0], dim=dim, ndim=ndim, share=share)
    if not damping:
        return new
    power = damping * _noise(sample, others, kinds, ndim)
    noise = transposed_square(root, kinds[0])
    return torch.addcmul(new, noise, over(power, noise))


def inverse_factor_plain(root: Tensor, *, kind: Pattern) -> Tensor:
    """K^-1 of a lower triangular K, or of a diagonal one."""
    if kind.ndim == 1:
        return 1 / root
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    return torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)


def size_balance_plain(
    white: Tensor,
    fresh: Tensor,
    seen: Tensor,
    *inverses: Tensor,
    beta: float,
    kinds: tuple[Pattern, ...],
) -> Tensor:
    """EQ's gain, for r = mean(A^2) / prod_j mean eigenvalue(K_j^-1 K_j^-T): 1 at its optimum."""
    size = entries(white, seen).square().mean(-1) / mean_squares(inverses, kinds, seen)
    return gain_of(size, fresh, seen, beta)


def prior_plain(inverse: Tensor, *others: Tensor, kinds: tuple[Pattern, ...]) -> Tensor:
    """K_i^-1 K_i^-T prod_j mean eigenvalue(K_j^-1 K_j^-T): what white noise is expected to give."""
    own = square_plain(inverse, kind=kinds[0])
    return own * over(mean_squares(others, kinds[1:], own), own)


def rotated_plain(root: Tensor) -> Tensor:
    """K turned towards the symmetric root of K K^T; K K^T stays, to third order in the angle.

        R = (K - K^T) / ||K - K^T||_F,  K <- K + a (K R^T + a / 2 K R^T R^T)

    with the a in [0, FARTHEST] at which the trace is largest.   Source: Li, psgd_torch, Procrustes.
    """
    turn = root.mT - root
    turn = turn / _length(turn, (-2, -1))
    once = root @ turn
    twice = once @ turn
    slope, bend = (x.diagonal(dim1=-2, dim2=-1).sum(-1) for x in (once, twice))
    angle = torch.where(bend < 0, -slope / bend, FARTHEST).nan_to_num().clamp(0, FARTHEST)
    angle = over(angle, root)
    return torch.addcmul(root, angle, torch.addcmul(once, angle / 2, twice))


def _moment_cost(
    shape: Shape, itemsize: int = 4, *, dim: int, kinds: tuple[Pattern, ...], **options: Any
) -> Cost:
    width = kinds[0].width(shape[dim])
    return Cost(2.0 * prod(shape) * width, 3.0 * itemsize * prod(shape))


def _one_product(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    kind = options.get("kind") or options["kinds"][0]
    return product_cost(shape, itemsize, kind=kind)


def _two_products(shape: Shape, itemsize: int = 4) -> Cost:
    return product_cost(shape, itemsize, kind=FULL, products=2)


whitened_moment = Op("whitened_moment", whitened_moment_plain, _moment_cost)
running_bound = Op("running_bound", running_bound_plain, elementwise_cost(6, 3))
whitening_step = Op("whitening_step", whitening_step_plain, _one_product)
rotated = Op("rotated", rotated_plain, _two_products)
triangular_moment = Op("triangular_moment", triangular_moment_plain, _moment_cost)
size_balance = Op("size_balance", size_balance_plain, elementwise_cost(3, 2))
inverse_factor = Op("inverse_factor", inverse_factor_plain, _one_product)
prior = Op("prior", prior_plain, _one_product)
triangular_step = Op("triangular_step", triangular_step_plain, _one_product)
