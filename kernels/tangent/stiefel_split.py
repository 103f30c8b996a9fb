r"""Manifold Muon's direction for tall weights, in two parts and without iterating.

W: (m, n) with W^T W = I and m > n.  With P = W^T G, the tangents of the Stiefel manifold at W are

    A = W Omega + E Z        Omega skew, (n, n);   E = G - W P, normal to W
    A^T A = Omega^T Omega + Z^T C Z,   C = E^T E

so A is feasible, whatever Omega of sigma_max <= 1, if Z^T C Z <= T^2 = I - Omega^T Omega.  Let
B = (P - P^T) / 2.  Then <G, A> = <B, Omega> + tr C Z, and for a given Omega the best Z is known:

    Z = T (T C T)^(-1/2) T       for which  tr C Z = || C^(1/2) T ||_nuclear

What is left is to choose Omega.  The best one solves Omega L + L Omega = 2 B for a matrix L that
lies between C^(1/2) and (C + B^T B)^(1/2); where B and C commute, it is the latter.

    by_roots        Omega = skew part of B (C + B^T B)^(-1/2), as in the usual first guess, the
                    polar factor of the tangent part made tangent; but Z is the best one
    by_eigenvectors for m >= 2 n, with a third of the small work: L diagonal in the eigenbasis of C,
                    singular values of that Omega bent below one, Z = C^(-1/2) T for a polynomial T

    Omega <- Omega (I - BEND Y),   T = I - FIRST Y + SECOND Y^2,   Y = Omega^T Omega

keeps every A^T A <= I for Y <= LONGEST, and is nearly the best T where Y is small.

The first misses 0.1 to 2 % of the best value for n >= 16, whatever m, and up to 7 % for n < 10; odd
shapes, whose best A is not orthonormal, included.  The second misses as much for m >= 3 n, and up
to 6 % at m = 2 n.  The usual first guess misses 6 to 10 %: benchmarks/manifold_muon.py.

What cannot be told from rounding is left out: C + floor I stands for C, which makes A a little
shorter than one where E is too small to have a direction.

Source: the splitting is derived here; Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix
Manifolds, 2008, for the form of the tangents.
"""

import torch
from torch import Tensor

from modula.kernels.spectral.polynomials import PolarExpress
from modula.kernels.spectral.products import (
    add_product_,
    gram,
    multiply_add,
    skew,
    skew_product,
    symmetric_product,
)

ROUNDINGS = 32.0  # the eigenvalues of a Gram matrix are known to so many roundings of the largest
EXACT = 1e-4  # W is on the manifold, as far as E^T E can tell
LEAK = 1e3  # E / floor^(1/2), which is to be normal to W, is so to 1 / LEAK
# y (1 - BEND y)^2 + (1 - FIRST y + SECOND y^2)^2 <= 1 for 0 <= y <= LONGEST, see the tests.
BEND, FIRST, SECOND, LONGEST = 0.175, 0.508, 0.07, 6.0
ROOT = PolarExpress(steps=7, lower=1e-3, schatten=8)


def split_direction(w: Tensor, g: Tensor, radius: Tensor, noise: Tensor) -> Tensor:
    """A, near argmax <g, A> over tangents with sigma_max <= 1; w, g: (..., m, n), both rescaled.

    radius (..., 1, 1): r of w^T w = r^2 I
    noise  (..., 1, 1): a tangent part of g below noise * ||g||_F counts as zero
    """
    is_tall = g.shape[-2] >= 2 * g.shape[-1]
    p = (w.mT @ g).div_(radius)
    across, size = skew(p), _squares(p)
    # G^T G - P^T P needs no product with tall matrices, but loses digits where G is near W P.
    along = p if is_tall and _is_mostly_normal(g, size, noise) else None
    if along is not None:
        rest = g  # for E N = G N - W P N: all that is wanted of E itself is E^T E
        moment = symmetric_product(p.mT, p, gram(g.mT), alpha=-1.0)
    else:
        rest = multiply_add(w, p / radius, add=g, alpha=-1.0)
        if not is_tall:  # E has not n dimensions; what leaks into the others is cut
            rest = add_product_(rest, w, (w.mT @ rest).div_(radius**2), alpha=-1.0)
        moment = gram(rest.mT)
    traces = _trace(moment)
    least = (LEAK * torch.finfo(g.dtype).eps) ** 2 * size
    coefficients = by_eigenvectors if is_tall and g.device.type == "cpu" else by_roots
    normal, inner = coefficients(moment, across, least / p.shape[-1])
    real = _squares(across) + traces > noise**2 * (size + traces)
    # No direction is made of rounding: parts too small to be told from it are left out.
    normal, inner = torch.where(real & (traces > least), normal, 0.0), torch.where(real, inner, 0.0)
    if along is not None:
        inner = inner - along @ normal
    return add_product_(w @ inner.div_(radius), rest, normal)


def _is_mostly_normal(g: Tensor, size: Tensor, noise: Tensor) -> bool:
    """Whether E^T E = G^T G - P^T P loses no digits to speak of: it spares a tall product.

    Only a CPU tells, as elsewhere one would wait to know, and products cost next to nothing.
    """
    if g.device.type != "cpu":
        return False
    return bool(((_squares(g) > 2 * size) & (noise < EXACT)).all())


def by_eigenvectors(moment: Tensor, across: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """C^(-1/2) T and Omega, (..., n, n), with one eigendecomposition: the faster way on a CPU."""
    values, basis = torch.linalg.eigh(moment)
    rounding = ROUNDINGS * torch.finfo(moment.dtype).eps * values[..., -1:].clamp(min=0)
    squares = values.clamp(min=0) + rounding + floor[..., 0]
    b = skew_product(basis.mT, across @ basis)
    lengths = (squares + (b * b).sum(-2)).sqrt()
    pairs = lengths[..., :, None] + lengths[..., None, :]
    omega = b.mul_(2).div_(torch.where(pairs > 0, pairs, 1.0))
    omega, left = _shortened(skew_product(basis @ omega, basis.mT))
    scaled = basis * torch.where(squares > 0, squares.rsqrt(), 0.0)[..., None, :]
    return symmetric_product(scaled, basis.mT) @ left, omega


def by_roots(moment: Tensor, across: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Z and Omega, (..., n, n), with three inverse roots."""
    inverse_root = _by_eigenvalues if moment.device.type == "cpu" else _by_products
    omega = skew(across @ inverse_root(moment + gram(across.mT), floor))
    square = symmetric_product(omega.mT, omega, alpha=-1.0, gamma=1.0)
    t = symmetric_product(square, inverse_root(square, torch.zeros_like(floor)))
    seen = symmetric_product(t, moment @ t)
    return symmetric_product(t, inverse_root(seen, floor) @ t), omega


def _shortened(omega: Tensor) -> tuple[Tensor, Tensor]:
    """Omega with its long singular values made shorter, and the T that it leaves room for."""
    y = gram(omega.mT)
    square = symmetric_product(y, y)
    bound = torch.linalg.matrix_norm(square, keepdim=True).sqrt()
    # The polynomials below keep A feasible up to LONGEST only: beyond, Omega is scaled down.
    shrink = LONGEST / bound.clamp(min=LONGEST)
    bent = skew_product(omega, y).mul_(-BEND * shrink).add_(omega).mul_(shrink.sqrt())
    t = square.mul_(SECOND * shrink**2).sub_(y.mul_(FIRST * shrink))
    t.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return bent, t


def _by_eigenvalues(k: Tensor, floor: Tensor) -> Tensor:
    """(K + floor I)^(-1/2) for symmetric K >= 0, (..., n, n); zero for zero."""
    values, basis = torch.linalg.eigh(k)
    rounding = ROUNDINGS * torch.finfo(k.dtype).eps * values[..., -1:].clamp(min=0)
    values = values.clamp(min=0) + rounding + floor[..., 0]
    roots = torch.where(values > 0, values.rsqrt(), 0.0)
    return symmetric_product(basis * roots[..., None, :], basis.mT)


def _by_products(k: Tensor, floor: Tensor) -> Tensor:
    """The same by the polynomials of `polar`, for accelerators: products cost next to nothing."""
    bound = torch.linalg.matrix_norm(k @ k, keepdim=True).sqrt()
    floor = floor + ROUNDINGS * torch.finfo(k.dtype).eps * bound
    bound = torch.where(bound + floor > 0, bound + floor, 1.0)
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    r, root = (k + floor * eye) / bound, eye
    for a, b, c in ROOT.terms:
        z = a * eye + b * r + c * (r @ r)
        root, r = root @ z, z @ (r @ z)
    return root * bound.rsqrt()


def _squares(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, keepdim=True) ** 2


def _trace(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
