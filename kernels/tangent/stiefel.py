r"""Manifold Muon's direction: the steepest unit tangent of the Stiefel manifold.

    argmax <G, A>   over   sigma_max(A) <= 1   and   W^T A + A^T W = 0

W: (..., m, n) with m >= n and W^T W = r^2 I. The tangent space of radius r is the one of radius 1
at W / r, and r is read off W itself, so no radius has to be given. By shape:

    m = n          W polar(W^T G - G^T W): the closed form, for W^T A has to be skew
    m > n          two parts, along W and normal to it, without iterating: see stiefel_split

Every result is feasible; how near it is to the steepest one is for a certificate to say.

Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai), for the problem.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.op import Cost, Locality, Op, Shape, check_matrix
from modula.kernels.spectral.polar import NEAR, polar
from modula.kernels.spectral.products import one_by_one, skew
from modula.kernels.spectral.rescale import rescale
from modula.kernels.tangent.stiefel_split import split_direction

NOISE = 32.0  # a tangent part below this many roundings of G is no direction at all
DRIFT = 4.0  # nor is one below this many times the distance of W from the manifold

# Nearer than Muon's five steps, which leave a gap of their own.
POLAR = {"polynomials": NEAR}


def stiefel_map_plain(weight: Tensor, gradient: Tensor) -> Tensor:
    """argmax <gradient, A> over sigma_max(A) <= 1, A tangent at weight; both (..., m, n), m >= n.

    A gradient without tangent part, zero included, gives zero.
    """
    _check(weight, gradient)
    if gradient.numel() == 0:
        return gradient.clone()
    half = gradient.dtype.itemsize < 4
    working = torch.float32 if half else gradient.dtype
    return one_by_one(_direction, weight.to(working), gradient.to(working)).to(gradient.dtype)


def _direction(w: Tensor, g: Tensor) -> Tensor:
    m, n = w.shape[-2:]
    w, g = rescale(w), rescale(g)
    radius, noise = radius_and_noise(w)
    return (
        _square_direction(w / radius, g, noise) if m == n else split_direction(w, g, radius, noise)
    )


def radius_and_noise(w: Tensor) -> tuple[Tensor, Tensor]:
    """r of W^T W = r^2 I, and the share of G below which a tangent part is none: (..., 1, 1).

    That part is then made by rounding, or by W's distance from the manifold.  W is rescaled.
    """
    # Lengths of columns tell both the radius and how far W is off, in one pass over W.
    squares = w.square().sum(-2, keepdim=True)
    mean = squares.mean(-1, keepdim=True)
    mean = torch.where(mean > 0, mean, 1.0)
    drift = (squares / mean - 1).abs().amax(-1, keepdim=True)
    noise = torch.clamp(DRIFT * drift, min=NOISE * torch.finfo(w.dtype).eps)
    return mean.sqrt(), noise


def _square_direction(q: Tensor, g: Tensor, noise: Tensor) -> Tensor:
    """Q polar(Q^T G - G^T Q), for square Q."""
    inner = rescale(q.mT @ g)
    # Where W^T G is symmetric, G is normal to the manifold and what is left of it is rounding.
    twice = inner - inner.mT
    real = _length(twice) > 2 * noise * _length(inner)
    turn = torch.where(real, polar(twice, **POLAR), 0.0)
    # A skew matrix of odd size is singular, and what a polar factor holds in the null space is
    # rounding: its symmetric part would leave the tangent space and is worth nothing.
    return q @ skew(turn)


def _length(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, keepdim=True)


def _check(weight: Tensor, gradient: Tensor) -> None:
    check_matrix(weight, "stiefel_map")
    check_matrix(gradient, "stiefel_map")
    if weight.shape != gradient.shape or weight.shape[-2] < weight.shape[-1]:
        raise ValueError(
            f"stiefel_map needs a weight and a gradient of one shape (..., m, n) with m >= n, got "
            f"{tuple(weight.shape)} and {tuple(gradient.shape)}: transpose both if m < n"
        )


def _cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    batch, (m, n) = prod(shape[:-2]), shape[-2:]
    passes = 8.0 * m * n * itemsize  # reads and writes of an m x n matrix around each product
    if m == n:
        return _times(batch, polar.cost((n, n), itemsize, **POLAR) + Cost(4.0 * n**3, passes))
    # Products with a tall matrix; of small ones eigendecompositions (9 n^3) and products.
    tall, small = (5, 9 * 1 + 2 * 10) if m >= 2 * n else (7, 9 * 3 + 2 * 11)
    return _times(batch, Cost(2.0 * tall * m * n**2 + float(small) * n**3, passes))


def _times(count: int, cost: Cost) -> Cost:
    return Cost(count * cost.flops, count * cost.bytes)


stiefel_map = Op("stiefel_map", stiefel_map_plain, _cost, Locality.WHOLE)
