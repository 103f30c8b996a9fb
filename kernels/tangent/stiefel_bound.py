r"""Upper bound on <G, A> over the unit tangents A of the Stiefel manifold, by weak duality.

For every symmetric S, and every A with W^T A + A^T W = 0, <W S, A> = 0; so

    max <G, A> over tangent A with sigma_max(A) <= 1    <=    || G + W S ||_nuclear

and the best S makes it an equality. The S is searched for in n x n matrices alone: with
P = W^T G, skew part B = (P - P^T) / 2 and rest C = G^T G - P^T P, up to a shift of S by sym(P)

    || G + W S ||_nuclear = tr K(S)^(1/2),      K(S) = (S + B)^T (S + B) + C.

Iteratively reweighted least squares freezes M = K^(-1/2) and minimises tr M K(S), which is the
Lyapunov equation S M + M S = M B - B M, solved entry by entry in the eigenbasis of K; Anderson
acceleration makes it fast. The best S is then measured on the true G + W S, so the bound holds
however far the search came, and also where W is only nearly orthonormal.

Source: Daubechies et al. 2010, arXiv:0807.0575 (reweighting); Walker and Ni 2011, Anderson
Acceleration for Fixed-Point Iterations.
"""

import torch
from torch import Tensor

from modula.kernels.spectral.products import skew, symmetric

ITERATIONS = 12
DEPTH = 5  # how many earlier steps Anderson acceleration combines


def stiefel_dual_bound(weight: Tensor, gradient: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """No tangent A at weight with sigma_max(A) <= 1 has <gradient, A> above this; float64.

    weight, gradient: (..., m, n) with m >= n -> (...)
    """
    w, g = weight.double(), gradient.double()
    batch, (m, n) = torch.broadcast_shapes(w.shape[:-2], g.shape[:-2]), g.shape[-2:]
    w, g = (x.expand(*batch, m, n).reshape(-1, m, n) for x in (w, g))
    size = _divisor(torch.linalg.matrix_norm(g, keepdim=True))
    radius = _divisor(torch.linalg.matrix_norm(w, keepdim=True) / n**0.5)
    w, g = w / radius, g / size
    s = _search(w, g, iterations)
    return (torch.linalg.matrix_norm(g + w @ s, ord="nuc") * size[:, 0, 0]).reshape(batch)


def _search(w: Tensor, g: Tensor, iterations: int) -> Tensor:
    """The multiplier S with the smallest tr K(S)^(1/2) among the iterates."""
    p = w.mT @ g
    across = skew(p)
    rest = g - w @ p
    gram = rest.mT @ rest
    s = best = torch.zeros_like(p)
    lowest = torch.full_like(p[:, :1, :1], torch.inf)
    history = _Anderson(DEPTH)
    for _ in range(iterations + 1):
        roots, basis = _eigen_roots((s + across).mT @ (s + across) + gram)
        value = roots.sum(-1)[:, None, None]
        best, lowest = torch.where(value < lowest, s, best), torch.minimum(value, lowest)
        s = history.next(s, _reweighted(across, roots, basis))
    return best - symmetric(p)


def _eigen_roots(k: Tensor) -> tuple[Tensor, Tensor]:
    values, basis = torch.linalg.eigh(symmetric(k))
    return values.clamp(min=0).sqrt(), basis


def _reweighted(across: Tensor, roots: Tensor, basis: Tensor) -> Tensor:
    """The S of S M + M S = M B - B M for M with eigenvalues 1 / roots: never divides by a root."""
    total = roots[:, :, None] + roots[:, None, :]
    ratio = torch.where(total > 0, (roots[:, None, :] - roots[:, :, None]) / total, 0.0)
    s = basis @ ((basis.mT @ across @ basis) * ratio) @ basis.mT
    return symmetric(s)


class _Anderson:
    """The affine combination of the last steps whose residuals cancel best, in least squares."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.images: list[Tensor] = []
        self.residuals: list[Tensor] = []

    def next(self, point: Tensor, image: Tensor) -> Tensor:
        self.images = [*self.images, image.flatten(1)][-self.depth - 1 :]
        self.residuals = [*self.residuals, (image - point).flatten(1)][-self.depth - 1 :]
        if len(self.images) == 1:
            return image
        steps = torch.stack(self.residuals, -1).diff(dim=-1)
        moves = torch.stack(self.images, -1).diff(dim=-1)
        # The pseudoinverse copes with steps that repeat or vanish, as they do at convergence.
        share = torch.linalg.pinv(steps, rtol=1e-12) @ self.residuals[-1][:, :, None]
        return (image.flatten(1) - (moves @ share)[:, :, 0]).reshape(image.shape)


def _divisor(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)
