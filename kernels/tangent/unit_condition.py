r"""Steepest unit tangent of the matrices of condition number one, whose size is free.

    argmax <G, D>   over   sigma_max(D) <= 1   and   W^T D + D^T W a multiple of I

W: (..., m, n) with m >= n and W = s Q, Q^T Q = I.  A tangent D is a growth c Q and a tangent A of
the Stiefel manifold, Q^T A skew, so that the mixed terms of D^T D cancel:

    D^T D = c^2 I + A^T A,      sigma_max(D)^2 = c^2 + sigma_max(A)^2

With A = sqrt(1 - c^2) A*, for A* the steepest of the Stiefel manifold, <G, D> is largest at

    D = (v A* + t Q) / sqrt(v^2 + t^2),   v = <G, A*>,   t = <G, Q>

which attains sqrt(v^2 + t^2): the gap is no larger than that of A*, and zero for square W.

Source: derived here; Bernstein 2025, Modular Manifolds (thinkingmachines.ai), for A*.
"""

from typing import Any

import torch
from torch import Tensor

from modula.kernels.op import Cost, Locality, Op, Shape, elementwise_cost
from modula.kernels.spectral.rescale import rescale
from modula.kernels.tangent.stiefel import radius_and_noise, stiefel_map


def unit_condition_map_plain(weight: Tensor, gradient: Tensor) -> Tensor:
    """argmax <gradient, D> over sigma_max(D) <= 1, D tangent at weight; both (..., m, n), m >= n.

    A gradient without tangent part, zero included, gives zero.
    """
    working = torch.promote_types(gradient.dtype, torch.float32)
    w, g = weight.to(working), gradient.to(working)
    if gradient.numel() == 0:
        return stiefel_map(w, g).to(gradient.dtype)
    w, g = rescale(w), rescale(g)
    turn = stiefel_map(w, g)
    radius, share = radius_and_noise(w)
    q = w / radius
    growth, gain = ((g * each).sum((-2, -1), keepdim=True) for each in (q, turn))
    # By Cauchy and Schwarz no growth is more than ||G|| ||Q||.
    most = torch.linalg.matrix_norm(g, keepdim=True) * w.shape[-1] ** 0.5
    growth = torch.where(growth.abs() > share * most, growth, 0.0)
    size = torch.hypot(growth, gain)
    size = torch.where(size > 0, size, 1.0)
    return (gain / size * turn + growth / size * q).to(gradient.dtype)


def _cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    return stiefel_map.cost(shape, itemsize) + elementwise_cost(9, 8)(shape, itemsize)


unit_condition_map = Op("unit_condition_map", unit_condition_map_plain, _cost, Locality.WHOLE)
