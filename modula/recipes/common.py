"""Shared by recipes: the weights of a model by role, and groups of declarations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from modula.duality import (
    Average,
    Decay,
    Declaration,
    Momentum,
    Potential,
    Scaler,
    Setting,
    Sharp,
    Unbiased,
    Unit,
)
from modula.network.declare import geometries_of
from modula.network.geometry import Geometry
from modula.norms.base import Norm
from modula.norms.checks import check_beta
from modula.norms.metrics.base import Memory, Metric
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.vector import L2
from modula.optimizer.param_groups import OWN_NAMES, Group, Names

MATRIX_ROLES = ("hidden", "conv")  # the weights that Muon is for; the others meet one-hot inputs
ONE_HOT_ROLES = ("embedding", "tied")  # most rows of their gradients are zero

# Options in param_groups under the names that recipes and torch's optimizers give them.
BETAS: Names = {"betas": ("momentum", "beta")}

Correction = Callable[[Any], Metric]  # a metric -> the same with an inverse that is less biased


def weights_of(model: nn.Module) -> dict[str, tuple[Geometry, Tensor]]:
    """Geometry and tensor of every trainable weight, by full name."""
    weights = dict(model.named_parameters())
    return {name: (geometry, weights[name]) for name, geometry in geometries_of(model).items()}


def entrywise(
    model: nn.Module,
    norm: Callable[[int], Norm],
    momentum: Momentum,
    weight_decay: float | Decay,
    potential: Potential = Unit(),
    metric: Metric | None = None,
    corrected: Correction | None = None,
    names: Names = OWN_NAMES,
) -> Group:
    """One group in which every weight, whatever its role, is measured entry by entry.

    corrected  what the metric becomes for weights that no one-hot input meets
    names      of its options in param_groups
    """
    dense = corrected(metric) if corrected else metric
    metrics = {role: metric for role in ONE_HOT_ROLES}
    return Group(
        {
            name: Declaration(
                Setting(
                    norm(weight.ndim),
                    metric=metrics.get(geometry.role, dense),
                    potential=potential,
                    momentum=momentum,
                ),
                geometry.role,
                weight_decay=weight_decay,
            )
            for name, (geometry, weight) in weights_of(model).items()
        },
        names=names,
    )


def average_of(momentum: float | Momentum, nesterov: bool = False) -> Momentum:
    """The average of gradients that decays by this number; a Momentum as it is."""
    return momentum if isinstance(momentum, Momentum) else Average(momentum, nesterov)


def preconditioned_setting(
    geometry: Geometry, weight: Tensor, metric: Metric, momentum: Momentum
) -> Setting:
    """Along S^-p m, for a metric of moment S: steepest descent in L2 under the metric."""
    return Setting(L2(weight.ndim), geometry.manifold, metric, potential=Sharp(), momentum=momentum)


def adam_options(betas: tuple[float, float], eps: float) -> dict[str, Any]:
    """The options of a Setting that make it Adam."""
    check_beta("the second of Adam's betas", betas[1])
    return {
        "momentum": Unbiased(betas[0]),
        "potential": Sharp(),
        "metric": Diagonal(Memory(betas[1]), floor=eps),
    }


def taken_for_groups(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `matrices_and_others`, taken out of these."""
    names = ("weight_decay", "adamw_lr", "adamw_betas", "adamw_weight_decay", "scalers")
    return {name: options.pop(name) for name in names if name in options}


def matrices_and_others(
    model: nn.Module,
    lr: float,
    setting_of: Callable[[Geometry, Tensor], Setting],
    *,
    weight_decay: float | Decay = 0.0,
    adamw_lr: float = 3e-3,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_weight_decay: float | Decay = 0.0,
    scalers: tuple[Scaler, ...] = (),
) -> list[Group]:
    """Two groups: hidden matrices and convolutions by `setting_of`, all other weights by AdamW.

    Hidden vectors and numbers, such as parameters of one's own, are among the others.

    scalers  those of the first group
    """
    matrices: dict[str, Declaration] = {}
    others: dict[str, Declaration] = {}
    for name, (geometry, weight) in weights_of(model).items():
        if geometry.role in MATRIX_ROLES and weight.ndim > 1:
            setting = setting_of(geometry, weight)
            matrices[name] = Declaration(setting, geometry.role, 1.0, weight_decay, scalers)
        else:
            setting = Setting(L2(weight.ndim), **adam_options(adamw_betas, 1e-8))
            others[name] = Declaration(setting, geometry.role, 1.0, adamw_weight_decay)
    return [Group(matrices, lr), Group(others, adamw_lr, BETAS)]
