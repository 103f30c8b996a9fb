"""Loading of a saved state_dict: what it has to agree with, and where its values go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor

from modula.duality import Declaration
from modula.duality.program.batch import ROUNDINGS
from modula.errors import shortened
from modula.optimizer.param_groups import DeclaredWeight
from modula.optimizer.public_state import check_fits
from modula.optimizer.saved_names import match_names

State = Mapping[Tensor, Mapping[str, Tensor]]
OWN = ("params", "param_names", "geometry")  # what an optimizer keeps of its groups when it loads


def fingerprint(declaration: Declaration) -> str:
    """What a saved state has to agree with of a declaration, as text."""
    setting = declaration.setting
    parts = (setting.norm, setting.manifold, setting.metric, setting.potential, setting.momentum)
    return f"{' '.join(map(str, (*parts, *declaration.scalers)))} budget {declaration.budget:.6g}"


class Loaded(NamedTuple):
    """What a saved state_dict holds for an optimizer.

    options  of each of its groups
    state    of each of its weights, by name
    """

    options: list[dict[str, Any]]
    state: dict[Tensor, dict[str, Tensor]]


class _Saved(NamedTuple):
    """What was saved of one weight: its group, its geometry and its state."""

    group: int
    geometry: str | None
    state: Mapping[str, Any]


def loaded(
    groups: Sequence[Sequence[DeclaredWeight]],
    state_under: Callable[[Sequence[Mapping[str, Any]]], State],
    saved: Mapping[str, Any],
) -> Loaded:
    """What is to be loaded, by the names of weights; by their places where no names were saved.

    Names are understood behind wrappers, see `match_names`.  Weights and groups may stand in
    another order.

    state_under  the state that the optimizer has under the options of these groups, in shapes

    Raises ValueError unless weights, geometries, groups and shapes are those that were saved.
    """
    own = [each for weights in groups for each in weights]
    rows = _by_name(saved) or _by_place(saved, groups)
    names = match_names([each.name for each in own], [*rows])
    for name, _, declaration in own:
        _check_geometry(name, rows[names[name]].geometry, declaration)
    sources = _sources([[names[each.name] for each in weights] for weights in groups], rows, saved)
    options = [saved["param_groups"][i] for i in sources]
    kept = [{k: deepcopy(v) for k, v in each.items() if k not in OWN} for each in options]
    state = state_under(kept)
    found = {
        each.weight: _checked_state(each.name, state[each.weight], rows[names[each.name]].state)
        for each in own
    }
    return Loaded(kept, found)


def _by_name(saved: Mapping[str, Any]) -> dict[str, _Saved]:
    """What was saved of each weight; empty where no names were."""
    found = {}
    for index, row in enumerate(saved["param_groups"]):
        ids = row["params"]
        are_names = bool(ids) and all(isinstance(each, str) for each in ids)
        names = row.get("param_names", ids if are_names else [])
        if len(names) != len(ids):
            return {}
        geometry = dict(zip(names, row.get("geometry", []), strict=False))
        # torch.distributed.checkpoint saves names in place of numbers, in an order of its own.
        for key, name in zip(ids, ids if are_names else names, strict=True):
            found[name] = _Saved(index, geometry.get(name), saved["state"].get(key, {}))
    return found


def _by_place(
    saved: Mapping[str, Any], groups: Sequence[Sequence[DeclaredWeight]]
) -> dict[str, _Saved]:
    """What was saved of the weight at each place, under the name of the own one there."""
    counts = [len(row["params"]) for row in saved["param_groups"]], [*map(len, groups)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"the saved state has groups of {counts[0]} weights, this optimizer of {counts[1]}"
        )
    found = {}
    for index, (row, weights) in enumerate(zip(saved["param_groups"], groups, strict=True)):
        geometry = row.get("geometry", [None] * len(weights))
        for key, each, was in zip(row["params"], weights, geometry, strict=True):
            found[each.name] = _Saved(index, was, saved["state"].get(key, {}))
    return found


def _check_geometry(name: str, was: str | None, declaration: Declaration) -> None:
    now = fingerprint(declaration)
    if was != now:
        raise ValueError(
            f"{name} was saved under {was or 'no geometry'}, but is declared {now}: "
            "build the optimizer as it was when the state was saved"
        )


def _checked_state(
    name: str, own: Mapping[str, Tensor], saved: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The saved state; ValueError unless it has each tensor of the own one, in its shape."""
    # The counter of roundings is there where state is kept in bfloat16, and starts anew there.
    wanted = {key: tuple(value.shape) for key, value in own.items() if key != ROUNDINGS}
    have = {key: tuple(getattr(x, "shape", ())) for key, x in saved.items() if key != ROUNDINGS}
    for key, shape in wanted.items():
        if have.get(key) != shape:
            raise ValueError(f"{name} needs saved {key} of shape {shape}; got {have}")
        check_fits(name, key, saved[key], own[key].shape)
    for key in have.keys() - wanted.keys():
        raise ValueError(f"{name} was saved with {key}, and keeps {[*wanted]}")
    return {key: value for key, value in saved.items() if key in own}


def _sources(
    groups: Sequence[Sequence[str]], rows: Mapping[str, _Saved], saved: Mapping[str, Any]
) -> list[int]:
    """Which saved group holds the weights of each of these groups, and no others."""
    held: list[list[str]] = [[] for _ in saved["param_groups"]]
    for name, row in rows.items():
        held[row.group].append(name)
    sides = [{frozenset(names): i for i, names in enumerate(each)} for each in (held, groups)]
    if sides[0].keys() != sides[1].keys():
        was, now = ("; ".join(f"({shortened(names)})" for names in each) for each in (held, groups))
        raise ValueError(
            f"the saved groups are {was}, and those of this optimizer {now}: build it with the "
            "groups that were saved, whose options they hold"
        )
    return [sides[0][frozenset(names)] for names in groups]
