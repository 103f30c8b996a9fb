"""Muon and its kin: hidden matrices step along the polar factor of their momentum."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

from torch import Tensor, nn

from modula.duality import (
    Average,
    Decay,
    EntryMoments,
    MatchRMS,
    RowMoments,
    Scaler,
    Setting,
)
from modula.network.geometry import Geometry
from modula.norms.base import Norm
from modula.norms.spectral import Spectral
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import matrices_and_others
from modula.recipes.options import checked

SCALES: dict[str, Callable[[int, int], float]] = {
    "rms": lambda m, n: sqrt(m / n),
    "original": lambda m, n: sqrt(max(1.0, m / n)),
    "match_rms_adamw": lambda m, n: 0.2 * sqrt(max(m, n)),
    "spectral": lambda m, n: sqrt(max(m, n)),
}


def _muon_norm(norm: Norm, shape: tuple[int, ...], scale: str) -> Norm:
    """The spectral norm whose unit matrices have the singular values that `scale` names."""
    if scale == "rms":
        return norm
    if len(shape) != 2 or not isinstance(norm, Spectral):
        raise ValueError(
            f"scale={scale!r} is defined for plain matrices, not for {norm} on {shape}; "
            'use scale="rms", which every view understands'
        )
    return (1 / SCALES[scale](*shape)) * Spectral()


@checked()
def muon(
    model: nn.Module,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float | Decay = 0.0,
    scale: str = "rms",
    adamw_lr: float = 3e-3,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_weight_decay: float | Decay = 0.0,
    scalers: tuple[Scaler, ...] = (),
    **options: Any,
) -> SteepestDescent:
    """Muon on hidden matrices, AdamW on embeddings, heads, biases and gains.

        m <- momentum m + (1 - momentum) g;   w <- (1 - lr weight_decay) w - lr s polar(m)

    scale   s for an (m, n) matrix: "rms" sqrt(m/n), the one that transfers across width;
            "original" sqrt(max(1, m/n)), torch's default; "match_rms_adamw" 0.2 sqrt(max(m, n));
            "spectral" sqrt(max(m, n))
    scalers what happens to the directions of matrices: Hyperball() makes it MuonH

    polar(m) has singular values within 6 % of one; accuracy=Exact() has them at one, by an SVD.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}; got {scale!r}")

    def setting(geometry: Geometry, weight: Tensor) -> Setting:
        norm = _muon_norm(geometry.norm, tuple(weight.shape), scale)
        return Setting(norm, geometry.manifold, momentum=Average(momentum, nesterov))

    groups = matrices_and_others(
        model,
        lr,
        setting,
        weight_decay=weight_decay,
        adamw_lr=adamw_lr,
        adamw_betas=adamw_betas,
        adamw_weight_decay=adamw_weight_decay,
        scalers=scalers,
    )
    return SteepestDescent(model, lr, groups=groups, **options)


@checked(muon, without=("scalers",))
def normuon(
    model: nn.Module, lr: float = 0.02, *, beta: float = 0.95, **options: Any
) -> SteepestDescent:
    """NorMuon: Muon whose rows are of equal size on average; options are those of `muon`.

        O = polar(m);   v_i <- beta v_i + (1 - beta) mean_j O_ij^2;   O' = O_ij / sqrt(v_i)
        w <- (1 - lr weight_decay) w - lr s ||O|| O' / ||O'||

    Lengths are those of `muon`, and so lr; the reference brings O' to an RMS of 0.2.
    Source: Li et al. 2025, arXiv:2510.05491.
    """
    return muon(model, lr, scalers=(RowMoments(beta),), **options)


@checked(muon, without=("scalers",))
def adamuon(
    model: nn.Module, lr: float = 3e-3, *, beta: float = 0.95, **options: Any
) -> SteepestDescent:
    """AdaMuon: Muon whose entries are of equal size on average, at the RMS of an Adam update.

        O = polar(m);   v <- beta v + (1 - beta) O^2;   O' = O / sqrt(v)
        w <- (1 - lr weight_decay) w - lr 0.2 O' / rms(O')

    Options are those of `muon`; lr is like one of AdamW.  Later versions of the paper take the
    polar factor of sign(m), which this does not.
    Source: Si, Zhang, Shen 2025, arXiv:2507.11005.
    """
    return muon(model, lr, scalers=(EntryMoments(beta), MatchRMS(0.2)), **options)
