"""Weights with their declarations, and the rows of param_groups made of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from modula.duality import (
    Accuracy,
    Average,
    Clip,
    Decay,
    Declaration,
    Momentum,
    Potential,
    Setting,
    ShortStep,
    Unit,
)
from modula.duality.metrics.coordinates import describe, is_limited
from modula.network.algebra import budgets_of
from modula.network.declare import geometries_of
from modula.norms.checks import check_fields, check_kind, check_not_negative

logger = logging.getLogger(__name__)

Names = Mapping[str, tuple[str, ...]]  # keys in param_groups -> the programs' names of options
OWN_NAMES: Names = {}


class DeclaredWeight(NamedTuple):
    """A weight, its full name in the network, and what is declared for it."""

    name: str
    weight: Tensor
    declaration: Declaration


@dataclass(frozen=True)
class Group:
    """Weights that share a learning rate and other options: a row of param_groups.

    declarations  full weight name -> Declaration
    lr            of this group; None takes the optimizer's
    names         keys that options have in param_groups, and under which names programs know
                  what stands there: {"betas": ("momentum", "beta")}; others keep their own name
    """

    declarations: Mapping[str, Declaration]
    lr: float | None = None
    names: Names = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.lr is not None:
            check_not_negative("lr", self.lr)


def declarations_of(
    model: nn.Module,
    momentum: Momentum = Average(0.95),
    potential: Potential = Unit(),
    weight_decay: float | Decay = 0.0,
) -> dict[str, Declaration]:
    """The network's own geometry and budgets; budgets are 1 where no masses are declared."""
    budgets = budgets_of(model)
    return {
        name: Declaration(
            Setting(geometry.norm, geometry.manifold, geometry.metric, potential, momentum),
            geometry.role,
            budgets.get(name, 1.0),
            weight_decay,
        )
        for name, geometry in geometries_of(model).items()
    }


def groups_of(
    model: nn.Module,
    groups: Sequence[Group] | None,
    momentum: Momentum,
    potential: Potential,
    weight_decay: float | Decay,
) -> Sequence[Group]:
    """The groups as given, or the network's own geometry as one; ValueError for both."""
    if groups is None:
        return [Group(declarations_of(model, momentum, potential, weight_decay))]
    refuse_options_beside_groups(momentum, potential, weight_decay)
    return groups


def refuse_options_beside_groups(
    momentum: Momentum, potential: Potential, weight_decay: float | Decay
) -> None:
    """Raise ValueError for what groups would leave without effect, unless it is the default."""
    without_effect = {
        f"momentum={momentum}": momentum != Average(0.95),
        f"potential={potential}": not isinstance(potential, Unit | Clip | ShortStep),
        f"weight_decay={weight_decay}": bool(weight_decay),
    }
    for each, is_given in without_effect.items():
        if is_given:
            raise ValueError(
                f"{each} has no effect beside groups, in which each Declaration holds its own: "
                f"say it there, or leave out groups for the network's own geometry"
            )


def param_groups(
    groups: Sequence[Group],
    weights: Mapping[str, nn.Parameter],
    lr: float,
    accuracy: Accuracy | None = None,
) -> list[dict[str, Any]]:
    """One row of torch's param_groups for each group that has a weight of the model.

    accuracy  of all directions; None leaves it to the declarations
    """
    declared = {name for group in groups for name in group.declarations}
    missing = [name for name in weights if name not in declared]
    if missing or not weights:
        what = (
            f"no geometry is declared for {', '.join(missing)}" if missing else "no weight to train"
        )
        raise ValueError(f"{what}: declare them with modula.declare(model, {{name: norm}})")
    return [
        {
            "params": [(name, weights[name]) for name in group.declarations if name in weights],
            "declarations": [
                d if accuracy is None else replace(d, setting=replace(d.setting, accuracy=accuracy))
                for name, d in group.declarations.items()
                if name in weights
            ],
            "lr": lr if group.lr is None else group.lr,
            "names": group.names,
        }
        for group in groups
        if any(name in weights for name in group.declarations)
    ]


def declared_params(
    param_group: Mapping[str, Any],
) -> tuple[list[Any], list[Declaration], dict[str, Any]]:
    """Weights of a new group, a declaration for each, and the group's other options.

    Raises ValueError if a declaration is missing: nothing is guessed.
    """
    options = {**param_group}
    declarations, params = list(options.pop("declarations", [])), options.pop("params")
    params = [params] if isinstance(params, Tensor) else list(params)
    if len(declarations) != len(params):
        raise ValueError(
            f"a param group needs one declaration a weight; got {len(declarations)} for "
            f'{len(params)} weights: add "declarations": [Declaration(...), ...]'
        )
    for each, declaration in zip(params, declarations, strict=True):
        name = repr(each[0]) if isinstance(each, tuple) else "its weight"
        check_kind("add_param_group", name, declaration, Declaration)
    return params, declarations, options


def names_of(group: Mapping[str, Any]) -> list[str]:
    """Full names of a group's weights."""
    names: list[str] = group.get(
        "param_names", [f"weight {i}" for i in range(len(group["params"]))]
    )
    return names


def warn_of_limited_metrics(weights: Iterable[DeclaredWeight]) -> None:
    """Log once which weights are too wide for their metric's max_dim, if any."""
    cut = [
        f"{name} {tuple(weight.shape)}: {describe(declaration.setting.metric, weight.shape)}"
        for name, weight, declaration in weights
        if declaration.setting.metric and is_limited(declaration.setting.metric, weight.shape)
    ]
    if cut:
        more = f", and {len(cut) - 1} more: see the plan" if len(cut) > 1 else ""
        logger.warning("wider than max_dim, so cut or made diagonal: %s%s", cut[0], more)
