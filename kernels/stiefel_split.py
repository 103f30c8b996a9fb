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
diagonal in the eigenbasis of C.  Singular values of this Omega may exceed one, and T has to follow:

    Omega <- Omega (I - BEND Y),   T = I - FIRST Y + SECOND Y^2,   Y = Omega^T Omega

keeps every A^T A <= I for Y <= LONGEST, and is nearly the best T where Y is small.  That misses
0.1 to 2 % of the best value for m >= 3 n and 1 to 6 % at m = 2 n, where the usual first guess, the
polar factor of the tangent part made tangent, misses 6 to 10 %: benchmarks/manifold_muon.py.

What cannot be told from rounding is left out: C + floor I stands for C, which makes A a little
shorter than one where E is too small to have a direction.

Source: the splitting is derived here; Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix
Manifolds, 2008, for the form of the tangents.
"""

import torch
from torch import Tensor

from modula.kernels.gram import add_product_, skew_product, symmetric_product
from modula.kernels.polynomials import PolarExpress

ROUNDINGS = 32.0  # the eigenvalues of a Gram matrix are known to so many roundings of the largest
LEAK = 1e3  # E / floor^(1/2), which is to be normal to W, is so to 1 / LEAK
# y (1 - BEND y)^2 + (1 - FIRST y + SECOND y^2)^2 <= 1 for 0 <= y <= LONGEST, see the tests.
BEND, FIRST, SECOND, LONGEST = 0.175, 0.508, 0.07, 6.0
ROOT = PolarExpress(steps=7, lower=1e-3, schatten=8)


def split_direction(w: Tensor, g: Tensor, radius: Tensor, noise: Tensor) -> Tensor:
    """A, near argmax <g, A> over tangents with sigma_max <= 1; w, g: (..., m, n).

    radius  (..., 1, 1): w^T w = radius^2 I
    noise   (..., 1, 1): a tangent part of g below noise * ||g||_F counts as zero
    """
    largest = g.abs().amax((-2, -1), keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    p = (w.mT @ g).div_(radius * largest)
    skew, rest = (p - p.mT).div_(2), add_product_(g / largest, w, p / radius, alpha=-1.0)
    gram = symmetric_product(rest.mT, rest)
    size, traces = _squares(p), _trace(gram)
    floor = (LEAK * torch.finfo(g.dtype).eps) ** 2 * size / p.shape[-1]
    coefficients = by_eigenvectors if g.device.type == "cpu" else by_products
    normal, inner = coefficients(gram, skew, floor)
    real = _squares(skew) + traces > noise**2 * (size + traces)
    normal, inner = (torch.where(real, x, 0.0) for x in (normal, inner))
    return add_product_(w @ (inner / radius), rest, normal)


def by_eigenvectors(gram: Tensor, skew: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """C^(-1/2) T and Omega, (..., n, n), with one eigendecomposition: the faster way on a CPU."""
    values, basis = torch.linalg.eigh(gram)
    rounding = ROUNDINGS * torch.finfo(gram.dtype).eps * values[..., -1:].clamp(min=0)
    squares = values.clamp(min=0) + rounding + floor[..., 0]
    b = skew_product(basis.mT, skew @ basis)
    lengths = (squares + (b * b).sum(-2)).sqrt()
    pairs = lengths[..., :, None] + lengths[..., None, :]
    omega = b.mul_(2).div_(torch.where(pairs > 0, pairs, 1.0))
    omega, left = _shortened(skew_product(basis @ omega, basis.mT))
    scaled = basis * torch.where(squares > 0, squares.rsqrt(), 0.0)[..., None, :]
    return symmetric_product(scaled, basis.mT) @ left, omega


def by_products(gram: Tensor, skew: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The same from matrix products alone, for accelerators, where they cost next to nothing.

    Omega is the skew part of B (C + B^T B)^(-1/2), which the usual first guess has too.
    """
    inverse = _inverse_root(gram, floor)
    omega = skew @ _inverse_root(gram + skew.mT @ skew, floor)
    omega, left = _shortened((omega - omega.mT) / 2)
    return inverse @ left, omega


def _shortened(omega: Tensor) -> tuple[Tensor, Tensor]:
    """Omega with its long singular values made shorter, and the T that it leaves room for."""
    y = symmetric_product(omega.mT, omega)
    square = symmetric_product(y, y)
    bound = torch.linalg.matrix_norm(square, keepdim=True).sqrt()
    shrink = LONGEST / bound.clamp(min=LONGEST)
    bent = skew_product(omega, y).mul_(-BEND * shrink).add_(omega).mul_(shrink.sqrt())
    t = square.mul_(SECOND * shrink**2).sub_(y.mul_(FIRST * shrink))
    t.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return bent, t


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
