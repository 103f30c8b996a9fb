"""Recipes with a diagonal second moment in a rotated basis: the SOAP family."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modula.duality import Average, Setting
from modula.geometry import Geometry
from modula.norms.eigenbasis import Eigenbasis
from modula.norms.kronecker import KL, Fit, Kronecker, Sum
from modula.norms.metric import First, Memory
from modula.optimizer import SteepestDescent
from modula.recipes.common import matrices_and_others
from modula.recipes.kronecker import preconditioned


def _metric(
    fit: Fit, beta: float, basis_beta: float, every: int, max_dim: int, instant: bool, **how: Any
) -> Eigenbasis:
    memory = Memory(basis_beta, unbiased=False)
    kronecker = Kronecker(fit=fit, memory=memory, every=every, max_dim=max_dim, instant=instant)
    return Eigenbasis(kronecker, Memory(beta), **how)


def soap(
    model: nn.Module,
    lr: float = 3e-3,
    *,
    momentum: float = 0.95,
    beta: float = 0.95,
    every: int = 10,
    max_dim: int = 2048,
    **options: Any,
) -> SteepestDescent:
    """SOAP on hidden matrices: Adam in the eigenbasis of Shampoo's factors; AdamW elsewhere.

        L <- beta L + (1 - beta) G G^T,   R likewise;   Q_L, Q_R their eigenvectors
        D <- average of (Q_L^T G Q_R)^2
        w <- (1 - lr weight_decay) w - lr Q_L ((Q_L^T m Q_R) / (sqrt(D) + 1e-8)) Q_R^T

    The reference keeps m rotated, which is the same, skips its first step, where ours is Adam's,
    corrects the bias of m, and leaves D as it is when a basis turns, where ours carries it over.
    Source: Vyas et al. 2024, arXiv:2409.11321 (lr 3e-3, betas 0.95, every 10).
    """
    metric = _metric(Sum(), beta, beta, every, max_dim, instant=False)
    return preconditioned(model, lr, metric, momentum, options)


def kl_soap(
    model: nn.Module,
    lr: float = 3e-3,
    *,
    momentum: float = 0.95,
    beta: float = 0.95,
    every: int = 10,
    max_dim: int = 2048,
    **options: Any,
) -> SteepestDescent:
    """SOAP in the eigenbasis of KL-Shampoo's factors, each of which whitens the other's samples.

    Source: Lin et al. 2025, arXiv:2509.03378 (betas 0.9 and 0.98, every 10).
    """
    metric = _metric(KL(), beta, beta, every, max_dim, instant=False)
    return preconditioned(model, lr, metric, momentum, options)


def eshampoo(
    model: nn.Module,
    lr: float = 3e-3,
    *,
    momentum: float = 0.9,
    beta: float = 0.95,
    every: int = 10,
    tolerance: float = 0.1,
    max_dim: int = 2048,
    **options: Any,
) -> SteepestDescent:
    """Shampoo with its eigenvalues corrected in every step, its bases when they are off by 10 %.

    SOAP's arithmetic with the gradient of the step in both metric and direction, and a basis that
    stays as long as the factor's part off its diagonal is at most `tolerance` of its norm.
    Source: Eschenhagen et al. 2025, arXiv:2506.03595.
    """
    metric = _metric(Sum(), beta, beta, every, max_dim, instant=True, tolerance=tolerance)
    return preconditioned(model, lr, metric, momentum, options)


def soap_muon(
    model: nn.Module,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    beta: float = 0.95,
    every: int = 10,
    max_dim: int = 2048,
    weight_decay: float = 0.0,
    adamw_lr: float = 3e-3,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_weight_decay: float = 0.0,
    **options: Any,
) -> SteepestDescent:
    """SOAP's direction, then Muon's polar factor of it, on hidden matrices: a chain.

        w <- (1 - lr weight_decay) w - lr sqrt(m/n) polar(SOAP's direction)

    It is no steepest descent in any norm, and may ascend.
    Source: the record runs of github.com/KellerJordan/modded-nanogpt, 2026.
    """
    metric = First(_metric(Sum(), beta, beta, every, max_dim, instant=False))

    def setting(geometry: Geometry, weight: Tensor) -> Setting:
        return Setting(geometry.norm, geometry.manifold, metric, momentum=Average(momentum))

    groups = matrices_and_others(
        model,
        lr,
        setting,
        weight_decay=weight_decay,
        adamw_lr=adamw_lr,
        adamw_betas=adamw_betas,
        adamw_weight_decay=adamw_weight_decay,
    )
    return SteepestDescent(model, lr, groups=groups, **options)
