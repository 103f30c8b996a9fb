r"""Manifold Muon's direction for tall weights (m >= 2 n), in two parts and without iterating.

W: (m, n) with W^T W = I.  With P = W^T G, the tangents of the Stiefel manifold at W are

    A = W Omega + Q T        Omega skew, (n, n);   Q: (m, n), W^T Q = 0, Q^T Q <= I
    A^T A = Omega^T Omega + T Q^T Q T

so A is feasible, whatever Omega of sigma_max <= 1, if T = (I - Omega^T Omega)^(1/2).  The second
part may then follow the part of the gradient that is normal to span W with all it is allowed:

    E = G - W P,   C = E^T E,   Q = polar(E) = E C^(-1/2),   B = (P - P^T) / 2

    <G, A> = <B, Omega> + tr C^(1/2) T.

What is left is to choose Omega.  The best one solves Omega L + L Omega = 2 B for a matrix L that
lies between C^(1/2) and (C + B^T B)^(1/2); where B and C commute, it is the latter.  L is taken
diagonal in the eigenbasis of C.  That is within 2 % of the best value (5 % at m = 2 n), where the
usual first guess, the polar factor of the tangent part made tangent, misses up to 15 %.

What cannot be told from rounding is left out: C + floor I stands for C, which makes A a little
shorter than one where E is too small to have a direction.
"""

import torch
from torch import Tensor

from modula.kernels.gram import multiply_add, symmetric_product
from modula.kernels.polynomials import PolarExpress

ROUNDINGS = 32.0  # the eigenvalues of a Gram matrix are known to so many roundings of the largest
LEAK = 1e3  # E / floor^(1/2), which is to be normal to W, is so to 1 / LEAK
ROOT = PolarExpress(steps=7, lower=1e-3, schatten=8)


def split_direction(w: Tensor, g: Tensor, noise: Tensor) -> Tensor:
    """A, near argmax <g, A> over tangents with sigma_max <= 1; w, g: (..., m, n), w^T w = I.

    noise  (..., 1, 1): a tangent part of g below noise * ||g||_F counts as zero
    """
    p = w.mT @ g
    skew, rest = (p - p.mT) / 2, multiply_add(w, p, add=g, beta=1.0, alpha=-1.0)
    gram = symmetric_product(rest.mT, rest)
    eps = torch.finfo(g.dtype).eps
    size, traces = _squares(p), _trace(gram)
    floor = (LEAK * eps) ** 2 * size / p.shape[-1]
    coefficients = by_eigenvectors if g.device.type == "cpu" else by_products
    normal, inner = coefficients(gram, skew, floor)
    real = _squares(skew) + traces > noise**2 * (size + traces)
    normal, inner = (torch.where(real, x, 0.0) for x in (normal, inner))
    return multiply_add(rest, normal, add=w @ inner, beta=1.0)


def by_eigenvectors(gram: Tensor, skew: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """C^(-1/2) T and Omega, (..., n, n), with one eigendecomposition: the faster way on a CPU."""
    values, basis = torch.linalg.eigh(gram)
    rounding = ROUNDINGS * torch.finfo(gram.dtype).eps * values[..., -1:].clamp(min=0)
    squares = values.clamp(min=0) + rounding + floor[..., 0]
    b = basis.mT @ (skew @ basis)
    lengths = (squares + (b * b).sum(-2)).sqrt()
    pairs = lengths[..., :, None] + lengths[..., None, :]
    omega = torch.where(pairs > 0, 2 * b / pairs, 0.0)
    omega, left = _within_one((omega - omega.mT) / 2)
    inverse = torch.where(squares > 0, squares.rsqrt(), 0.0)
    normal = basis @ (inverse[..., :, None] * (left @ basis.mT))
    return normal, basis @ (omega @ basis.mT)


def by_products(gram: Tensor, skew: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The same from matrix products alone, for accelerators, where they cost next to nothing.

    Omega is the skew part of B (C + B^T B)^(-1/2), which the usual first guess has too.
    """
    inverse = _inverse_root(gram, floor)
    omega = skew @ _inverse_root(gram + skew.mT @ skew, floor)
    omega, left = _within_one((omega - omega.mT) / 2)
    return inverse @ left, omega


def _within_one(omega: Tensor) -> tuple[Tensor, Tensor]:
    """Omega, divided by a bound on its sigma_max where that is above one, and its T."""
    y = symmetric_product(omega.mT, omega)
    square = symmetric_product(y, y)
    fourth = torch.linalg.matrix_norm(square, keepdim=True)  # sigma_max(Omega)^4 is below
    shrink = fourth.clamp(min=1.0).rsqrt()
    return omega * shrink.sqrt(), _remaining(y * shrink, square * shrink**2)


def _remaining(y: Tensor, square: Tensor) -> Tensor:
    """A polynomial just below (I - Y)^(1/2), for Y: (..., n, n) with eigenvalues in [0, 1].

    1 - y/2 - y^2/8 - y^3/16 - 5 y^4/16: the Taylor series, its last term made zero at y = 1.
    """
    tail = symmetric_product(square, 5 / 16 * square + y / 16)
    t = -(y / 2 + square / 8 + tail)
    t.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return t


def _inverse_root(k: Tensor, floor: Tensor) -> Tensor:
    """(K + floor I)^(-1/2) for symmetric K >= 0, (..., n, n), by the polynomials of `polar`."""
    bound = torch.linalg.matrix_norm(k @ k, keepdim=True).sqrt()
    floor = floor + ROUNDINGS * torch.finfo(k.dtype).eps * bound
    bound = torch.where(bound + floor > 0, bound + floor, 1.0)
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    r, root = (k + floor * eye) / bound, eye
    for a, b, c in ROOT:
        z = a * eye + b * r + c * (r @ r)
        root, r = root @ z, z @ (r @ z)
    return root * bound.rsqrt()


def _squares(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, keepdim=True) ** 2


def _trace(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
