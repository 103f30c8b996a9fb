"""Weights and their declarations: what a network declares, and rows of param_groups."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modula.duality import (
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
from modula.manifolds.numerics import in_working_dtype
from modula.network.algebra import Module
from modula.network.declare import geometries_of
from modula.norms.checks import check_fields

logger = logging.getLogger(__name__)

OFF_MANIFOLD = 1e-3  # a relative residual above this is a weight that was not initialised on it


@dataclass(frozen=True)
class Group:
    """Weights that share a learning rate: a row of param_groups.

    declarations  full weight name -> Declaration
    lr            of this group; None takes the optimizer's
    """

    declarations: Mapping[str, Declaration]
    lr: float | None = None

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
            weight_decay or None,
        )
        for name, geometry in geometries_of(model).items()
    }


def budgets_of(model: nn.Module) -> dict[str, float]:
    """Modular budgets of a normed network; empty for a plain torch model."""
    return model.budgets() if isinstance(model, Module) else {}


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError for a negative or non-finite hyperparameter."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be zero or positive, and finite; got {value}")


def refuse_beside_groups(
    momentum: Momentum, potential: Potential, weight_decay: float | Decay
) -> None:
    """Raise ValueError for what is no default and would have no effect."""
    unheard = {
        f"momentum={momentum}": momentum != Average(0.95),
        f"potential={potential}": not isinstance(potential, Unit | Clip | ShortStep),
        f"weight_decay={weight_decay}": bool(weight_decay),
    }
    for each, is_given in unheard.items():
        if is_given:
            raise ValueError(
                f"{each} has no effect beside groups, in which each Declaration holds its own: "
                f"say it there, or leave out groups for the network's own geometry"
            )


def param_groups(
    groups: Sequence[Group], weights: Mapping[str, nn.Parameter], lr: float
) -> list[dict[str, Any]]:
    """One row of torch's param_groups for each group that has a weight of the model."""
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
            "declarations": [d for name, d in group.declarations.items() if name in weights],
            "lr": lr if group.lr is None else group.lr,
        }
        for group in groups
        if any(name in weights for name in group.declarations)
    ]


def names_of(group: Mapping[str, Any]) -> list[str]:
    """Full names of a group's weights."""
    names: list[str] = group.get(
        "param_names", [f"weight {i}" for i in range(len(group["params"]))]
    )
    return names


def fingerprint(declaration: Declaration) -> str:
    """What of a declaration a saved state has to agree with."""
    setting = declaration.setting
    parts = (setting.norm, setting.manifold, setting.metric, setting.potential, setting.momentum)
    return f"{' '.join(map(str, (*parts, *declaration.scalers)))} budget {declaration.budget:.6g}"


def check_loadable(
    groups: Sequence[Mapping[str, Any]],
    state: Mapping[Tensor, Mapping[str, Tensor]],
    saved: Mapping[str, Any],
) -> None:
    """Raise ValueError unless a saved state_dict has these weights, geometries and shapes."""
    counts = [[len(g["params"]) for g in rows] for rows in (saved["param_groups"], groups)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"the saved state has groups of {counts[0]} weights, this optimizer of {counts[1]}"
        )
    index = 0
    for old, own in zip(saved["param_groups"], groups, strict=True):
        geometry = old.get("geometry", [None] * len(own["params"]))
        rows = zip(names_of(own), own["params"], geometry, own["geometry"], strict=True)
        for name, weight, was, now in rows:
            if was != now:
                raise ValueError(
                    f"{name} was saved under {was or 'no geometry'}, but is declared {now}: "
                    "build the optimizer as it was when the state was saved"
                )
            _check_state(name, state[weight], saved["state"].get(index, {}))
            index += 1


def _check_state(name: str, own: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    """Raise ValueError unless the saved state has every tensor of the own one, in its shape."""
    for key, value in own.items():
        if key not in saved or tuple(saved[key].shape) != tuple(value.shape):
            have = {k: tuple(v.shape) for k, v in saved.items()}
            raise ValueError(f"{name} needs saved {key} of shape {tuple(value.shape)}; got {have}")


class Landing(NamedTuple):
    """A weight that is off its manifold, the point nearest to it, and what to log of that."""

    weight: Tensor
    point: Tensor
    words: str


def say_what_is_cut(rows: Iterable[tuple[str, Tensor, Declaration]]) -> None:
    """Log once which weights are too wide for their metric's max_dim, if any."""
    cut = [
        f"{name} {tuple(weight.shape)}: {describe(declaration.setting.metric, weight.shape)}"
        for name, weight, declaration in rows
        if declaration.setting.metric and is_limited(declaration.setting.metric, weight.shape)
    ]
    if cut:
        more = f", and {len(cut) - 1} more: see the plan" if len(cut) > 1 else ""
        logger.warning("wider than max_dim, so cut or made diagonal: %s%s", cut[0], more)


@torch.no_grad()
def landing_of(declaration: Declaration, weight: Tensor, name: str) -> Iterator[Landing]:
    """How the weight comes to its manifold, unless it is there already, up to its own rounding.

    Raises ValueError where that fails, or where the weight has come to a point without tangents.
    """
    manifold = declaration.setting.manifold
    distance = float(manifold.residual(weight).max()) if weight.numel() else 0.0
    if not distance > OFF_MANIFOLD:
        manifold.check_point(weight)
        return
    (working,) = in_working_dtype(weight)
    point = manifold.project(working)
    # Half precision is further off by rounding alone: a run that goes on must not be moved by it.
    rounding = torch.finfo(weight.dtype).eps / 2
    if torch.linalg.vector_norm(point - working) > rounding * torch.linalg.vector_norm(working):
        words = f"{name} was {distance:.3g} off {manifold}: projected"
        yield Landing(weight, point.to(weight.dtype), words)


@torch.no_grad()
def land_(landings: Sequence[Landing]) -> None:
    """Move weights to their points, with a logged line for each."""
    for weight, point, words in landings:
        weight.copy_(point)
        logger.warning("%s", words)


@contextmanager
def undone_if_it_fails(tensors: Sequence[Tensor]) -> Iterator[None]:
    """All of these as they were before, where a ValueError is raised inside."""
    before = [each.clone() for each in tensors]
    try:
        yield
    except ValueError:
        for each, old in zip(tensors, before, strict=True):
            each.copy_(old)
        raise
