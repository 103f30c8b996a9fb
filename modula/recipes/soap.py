"""Recipes with a diagonal second moment in a rotated basis: the SOAP family."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modula.duality import Average, Setting, Unbiased
from modula.network.geometry import Geometry
from modula.norms.metrics.base import First, Memory
from modula.norms.metrics.eigenbasis import Eigenbasis
from modula.norms.metrics.kronecker import KL, Fit, Kronecker, Sum
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import matrices_and_others, taken_for_groups
from modula.recipes.options import checked
from modula.recipes.shampoo import preconditioned


def _metric(
    fit: Fit,
    beta: float,
    basis_beta: float,
    every: int,
    max_dim: int,
    square: bool,
    instant: bool,
    **how: Any,
) -> Eigenbasis:
    memory = Memory(basis_beta, unbiased=False)
    kronecker = Kronecker(
        fit=fit, memory=memory, every=every, max_dim=max_dim, square=square, instant=instant
    )
    return Eigenbasis(kronecker, Memory(beta), **how)


@checked(matrices_and_others)
def soap(
    model: nn.Module,
    lr: float = 3e-3,
    *,
    momentum: float = 0.95,
    beta: float = 0.95,
    every: int = 10,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """SOAP on hidden matrices: Adam in the eigenbasis of Shampoo's factors; AdamW elsewhere.

        L <- beta L + (1 - beta) G G^T,   R likewise;   Q_L, Q_R their eigenvectors
        m <- average of G,   D <- average of (Q_L^T G Q_R)^2,   both unbiased
        w <- (1 - lr weight_decay) w - lr Q_L ((Q_L^T m Q_R) / sqrt(D)) Q_R^T

    Its defaults are the reference's: lr 3e-3, betas 0.95, bases renewed behind every tenth step,
    by one step of orthogonal iteration.  Other than the reference, ours
    - takes Adam's step first, where the reference learns a basis and does not move;
    - renews bases more often at first, the weights in turn;
    - carries D over where a basis turns, by the squares of the rotation; the reference sorts it;
    - bounds sqrt(D) from below by 1e-4 of its largest entry, where the reference adds 1e-8;
    - cuts weights 2 to 8 times longer than wide into square blocks, unless square=False, and sides
      above `max_dim`, of which the reference leaves those above 10000 as they are;
    - has no weight decay, where the reference's is 0.01, behind the step.
    Source: Vyas et al. 2024, arXiv:2409.11321.
    """
    metric = _metric(Sum(), beta, beta, every, max_dim, square, instant=False)
    return preconditioned(model, lr, metric, Unbiased(momentum), options)


@checked(matrices_and_others)
def kl_soap(
    model: nn.Module,
    lr: float = 3e-3,
    *,
    momentum: float = 0.95,
    beta: float = 0.95,
    every: int = 10,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """SOAP in the eigenbasis of KL-Shampoo's factors, each of which whitens the other's samples.

        L <- beta L + (1 - beta) G R^-1 G^T / n,   R <- ... G^T L^-1 G / m;   the rest as in `soap`

    The reference has lr 1e-4, betas 0.9 and 0.98, no bias correction, and begins with a fixed
    multiple of the identity; ours has SOAP's defaults and begins at the size of the first gradient.
    square as in `soap`; the reference keeps weights whole.
    Source: Lin et al. 2025, arXiv:2509.03378.
    """
    metric = _metric(KL(), beta, beta, every, max_dim, square, instant=False)
    return preconditioned(model, lr, metric, Unbiased(momentum), options)


@checked(matrices_and_others)
def eshampoo(
    model: nn.Module,
    lr: float = 3e-3,
    *,
    momentum: float = 0.9,
    beta: float = 0.95,
    every: int = 10,
    tolerance: float = 0.1,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """Shampoo with its eigenvalues corrected in every step, its bases when they are off by 10 %.

        L, R, Q_L, Q_R of the gradients up to G itself;   B_L = Q_L^T L Q_L
        Q_L stays where ||B_L - diag B_L||_F <= tolerance ||B_L||_F;   the rest as in `soap`

    Without memory it is sign descent in the eigenbasis of G, which is Muon.  The reference adds
    1e-12 to sqrt(D) and cuts weights into blocks of 1024; square as in `soap`.
    Source: Eschenhagen et al. 2025, arXiv:2506.03595.
    """
    metric = _metric(Sum(), beta, beta, every, max_dim, square, instant=True, tolerance=tolerance)
    return preconditioned(model, lr, metric, Unbiased(momentum), options)


@checked(matrices_and_others)
def soap_muon(
    model: nn.Module,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    beta: float = 0.95,
    every: int = 10,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """SOAP's direction, then Muon's polar factor of it, on hidden matrices: a chain.

        w <- (1 - lr weight_decay) w - lr sqrt(m/n) polar(SOAP's direction)

    It is no steepest descent in any norm, and may ascend.  lr and the scale are those of `muon`,
    square is that of `soap`.
    Source: the record runs of github.com/KellerJordan/modded-nanogpt, 2026.
    """
    metric = First(_metric(Sum(), beta, beta, every, max_dim, square, instant=False))

    def setting(geometry: Geometry, weight: Tensor) -> Setting:
        return Setting(geometry.norm, geometry.manifold, metric, momentum=Average(momentum))

    groups = matrices_and_others(model, lr, setting, **taken_for_groups(options))
    return SteepestDescent(model, lr, groups=groups, **options)
