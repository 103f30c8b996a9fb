r"""Manifold Muon's direction by ADMM: any shape, and as near to the best as rounds are paid for.

What stiefel_map is compared with, in the tests and in benchmarks/manifold_muon.py.  ADMM splits the
two constraints, sigma_max(A) <= 1 and W^T A + A^T W = 0:

    M  = T + W sym(W^T (Omega - A / rho))                  T = tangent part of G, unit rms sigma
    A' = clip(A + rho (relaxation M + (1 - relaxation) Omega))      sigma -> min(sigma, 1)
    Omega' = what A' - A leaves of the clip's argument, over rho

where A has sigma_max <= 1 in every round and is tangent in the limit. At the end its tangent part
is taken and divided by (a tight bound on) its sigma_max, so the result is always feasible. Reading
A, and not the polar factor of G + W S for the dual solution S, matters: when m is odd and m < 2n
the optimal G + W S is singular and the best A is not orthonormal.

Source: Boyd et al. 2011, Distributed Optimization and Statistical Learning via ADMM, sections 3.1
and 3.4.3.
"""

import torch
from torch import Tensor

from modula.kernels.spectral.bound import spectral_bound
from modula.kernels.spectral.clip import spectral_clip
from modula.kernels.spectral.polar import polar
from modula.kernels.tangent.stiefel import POLAR

ITERATIONS = 10  # reaches 98 to 100 % of the best value, see the tests
RHO = 0.5
RELAXATION = 1.7


def admm_direction(
    w: Tensor, g: Tensor, radius: Tensor, noise: Tensor, iterations: int = ITERATIONS
) -> Tensor:
    """argmax <g, A> over tangents with sigma_max <= 1, so far; w, g: (..., m, n).

    radius  (..., 1, 1): w^T w = radius^2 I
    noise   (..., 1, 1): a tangent part of g below noise * ||g||_F counts as zero
    """
    largest = g.abs().amax((-2, -1), keepdim=True)
    w, g = w / radius, g / torch.where(largest > 0, largest, 1.0)
    t = _tangent_part(w, g, noise)
    a = to_tangent(w, _rounds(w, t, iterations))
    sigma = spectral_bound(a)[..., None, None]
    return torch.where(sigma == 0, 0.0, a / sigma)


def to_tangent(w: Tensor, x: Tensor) -> Tensor:
    """x - W sym(W^T x), for orthonormal columns of W."""
    return x - w @ _symmetric_part(w.mT @ x)


def _rounds(w: Tensor, t: Tensor, iterations: int) -> Tensor:
    omega = t
    a = polar(t, **POLAR)
    for _ in range(iterations):
        m = t + w @ _symmetric_part(w.mT @ (omega - a / RHO))
        relaxed = RELAXATION * m + (1 - RELAXATION) * omega
        clipped = spectral_clip(a + RHO * relaxed, high=1.0, **POLAR)
        omega = relaxed + (a - clipped) / RHO
        a = clipped
    return a


def _tangent_part(w: Tensor, g: Tensor, noise: Tensor) -> Tensor:
    """The tangent part of g with Frobenius norm sqrt(n); zero if it is only rounding noise."""
    # Twice: the first time may cancel nearly all of g, and what is left need not be tangent yet.
    t = to_tangent(w, to_tangent(w, g))
    size = torch.linalg.matrix_norm(t, keepdim=True)
    real = size > noise * torch.linalg.matrix_norm(g, keepdim=True)
    return torch.where(real, t * (t.shape[-1] ** 0.5 / torch.where(real, size, 1.0)), 0.0)


def _symmetric_part(x: Tensor) -> Tensor:
    return (x + x.mT) / 2
