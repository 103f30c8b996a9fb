r"""Manifold Muon's direction: the steepest unit tangent of the Stiefel manifold.

    argmax <G, A>   over   sigma_max(A) <= 1   and   W^T A + A^T W = 0

W: (..., m, n) with m >= n and W^T W = r^2 I. The tangent space of radius r is the one of radius 1
at W / r, and r is read off W itself, so no radius has to be given.

Square W: with W^T A skew, the answer is W polar(W^T G - G^T W).
Tall W: no closed form is known. ADMM splits the two constraints,

    M  = T + W sym(W^T (Omega - A / rho))                  T = tangent part of G, unit rms sigma
    A' = clip(A + rho (relaxation M + (1 - relaxation) Omega))      sigma -> min(sigma, 1)
    Omega' = what A' - A leaves of the clip's argument, over rho

where A has sigma_max <= 1 in every round and is tangent in the limit. At the end its tangent part
is taken and divided by (a tight bound on) its sigma_max, so the result is always feasible. Reading
A, and not the polar factor of G + W S for the dual solution S, matters: when m is odd and m < 2n
the optimal G + W S is singular and the best A is not orthonormal.

Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai), for the problem; Boyd et al. 2011,
Distributed Optimization and Statistical Learning via ADMM, sections 3.1 and 3.4.3, for the method.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.normalise import normalise
from modula.kernels.op import Cost, Locality, Op, Shape, check_matrix
from modula.kernels.polar import polar
from modula.kernels.polynomials import PolarExpress
from modula.kernels.spectral_bound import spectral_bound

ITERATIONS = 10  # reaches 98 to 100 % of the best value, see the tests
RHO = 0.5
RELAXATION = 1.7
# Five steps, enough for Muon, are not enough inside an iteration: it stalls near 0.95 of the best.
POLAR = {"polynomials": PolarExpress(steps=7, lower=1e-3, safety=1.01, schatten=8)}
NOISE = 32.0  # a tangent part below this many roundings of G is no direction at all


def stiefel_map_plain(
    weight: Tensor,
    gradient: Tensor,
    *,
    iterations: int = ITERATIONS,
    rho: float = RHO,
    relaxation: float = RELAXATION,
) -> Tensor:
    """argmax <gradient, A> over sigma_max(A) <= 1, A tangent at weight; both (..., m, n), m >= n.

    A gradient without tangent part, zero included, gives zero.
    """
    _check(weight, gradient)
    g = gradient.float() if gradient.dtype.itemsize < 4 else gradient
    w = _unit_radius(weight.to(g.dtype))
    t = _tangent_part(w, g)
    if w.shape[-2] == w.shape[-1]:
        return _turn(w, t).to(gradient.dtype)
    a = _admm(w, t, iterations, rho, relaxation)
    a = to_tangent(w, a)
    sigma = spectral_bound(a)[..., None, None]
    return torch.where(sigma == 0, 0.0, a / sigma).to(gradient.dtype)


def to_tangent(w: Tensor, x: Tensor) -> Tensor:
    """x - W sym(W^T x), for orthonormal columns of W."""
    return x - w @ _symmetric_part(w.mT @ x)


def clip(x: Tensor) -> Tensor:
    """Singular values above one become one, x: (..., m, n) with m >= n; two polar factors.

    With x = O H, O = polar(x), H = (x^T x)^(1/2):  (x + O (I - |I - H|)) / 2,  and the absolute
    value of the symmetric D = I - H is D polar(D). Where a polar factor has not converged, H or
    I - H is nearly zero, so that the error is as small.
    """
    o = polar(x, **POLAR)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    d = eye - _symmetric_part(o.mT @ x)
    return (x + o @ (eye - _symmetric_part(d @ polar(d, **POLAR)))) / 2


def _turn(w: Tensor, t: Tensor) -> Tensor:
    """W polar(W^T T - T^T W), for square W: the closed form."""
    inner = w.mT @ t
    skew = polar(inner - inner.mT, **POLAR)
    # A skew matrix of odd size is singular, and what a polar factor holds in the null space is
    # rounding: its symmetric part would leave the tangent space and is worth nothing.
    return w @ ((skew - skew.mT) / 2)


def _admm(w: Tensor, t: Tensor, iterations: int, rho: float, relaxation: float) -> Tensor:
    omega = t
    a = polar(t, **POLAR)
    for _ in range(iterations):
        m = t + w @ _symmetric_part(w.mT @ (omega - a / rho))
        relaxed = relaxation * m + (1 - relaxation) * omega
        clipped = clip(a + rho * relaxed)
        omega = relaxed + (a - clipped) / rho
        a = clipped
    return a


def _tangent_part(w: Tensor, g: Tensor) -> Tensor:
    """The tangent part of g with Frobenius norm sqrt(n); zero if it is only rounding noise."""
    t: Tensor = normalise(g, ndim=2)
    # Twice: the first time may cancel nearly all of g, and what is left need not be tangent yet.
    t = to_tangent(w, to_tangent(w, t))
    size = torch.linalg.matrix_norm(t, keepdim=True)
    real = size > NOISE * torch.finfo(t.dtype).eps
    return torch.where(real, t * (t.shape[-1] ** 0.5 / size), 0.0)


def _unit_radius(w: Tensor) -> Tensor:
    unit: Tensor = normalise(w, ndim=2)
    return unit * w.shape[-1] ** 0.5


def _symmetric_part(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


def _check(weight: Tensor, gradient: Tensor) -> None:
    check_matrix(weight, "stiefel_map")
    check_matrix(gradient, "stiefel_map")
    if weight.shape != gradient.shape or weight.shape[-2] < weight.shape[-1]:
        raise ValueError(
            f"stiefel_map needs a weight and a gradient of one shape (..., m, n) with m >= n, got "
            f"{tuple(weight.shape)} and {tuple(gradient.shape)}: transpose both if m < n"
        )


def _cost(shape: Shape, itemsize: int = 4, *, iterations: int = ITERATIONS, **options: Any) -> Cost:
    batch, (m, n) = prod(shape[:-2]), shape[-2:]
    small = polar.cost((n, n), itemsize, **POLAR)
    passes = 8.0 * m * n * itemsize  # reads and writes of an m x n matrix around each product
    if m == n:
        return _times(batch, small + Cost(12.0 * n**3, passes))
    tall = polar.cost((m, n), itemsize, **POLAR)
    one_round = tall + small + Cost(8.0 * m * n**2 + 2.0 * n**3, passes)
    ends = tall + spectral_bound.cost((m, n), itemsize) + Cost(12.0 * m * n**2, passes)
    return _times(batch, ends + _times(iterations, one_round))


def _times(count: int, cost: Cost) -> Cost:
    return Cost(count * cost.flops, count * cost.bytes)


stiefel_map = Op("stiefel_map", stiefel_map_plain, _cost, Locality.WHOLE)
