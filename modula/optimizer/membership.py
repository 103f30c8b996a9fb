"""Whose weights they are: those of param_groups, of the model and of the optimizer are the same."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from weakref import ref

from torch import Tensor, nn

from modula.errors import shortened
from modula.optimizer.param_groups import DeclaredWeight

logger = logging.getLogger(__name__)

REPLACE = "optimizer.replace(old, new)"
ADD = 'optimizer.add_param_group({"params": [(name, weight)], "declarations": [declaration]})'


def check_members(
    param_groups: Sequence[Mapping[str, Any]], groups: Sequence[Sequence[DeclaredWeight]]
) -> None:
    """Raise ValueError unless param_groups hold the optimizer's own weights, in its order."""
    if len(param_groups) != len(groups):
        raise ValueError(
            f"param_groups has {len(param_groups)} groups, and this optimizer {len(groups)}: a new "
            f"one is added with {ADD}"
        )
    for index, (group, weights) in enumerate(zip(param_groups, groups, strict=True)):
        params = group["params"]
        if [*map(id, params)] != [id(each.weight) for each in weights]:
            raise ValueError(f'param_groups[{index}]["params"] {_difference(params, weights)}')


def _difference(params: Sequence[Tensor], weights: Sequence[DeclaredWeight]) -> str:
    """How a group's weights are not the optimizer's, and the call that makes it so."""
    names = {id(each.weight): each.name for each in weights}
    given = [*map(id, params)]
    lost = [each for each in weights if id(each.weight) not in given]
    new = [each for each in params if id(each) not in names]
    if lost and new:
        name, shape = lost[0].name, tuple(new[0].shape)
        rows = "" if new[0].shape == lost[0].weight.shape else ", rows=..."
        return (
            f"has another tensor, of shape {shape}, in place of {name}: the optimizer goes on with "
            f"it after optimizer.replace({name!r}, new{rows})"
        )
    if new:
        return f"has one more weight, of shape {tuple(new[0].shape)}: add it with {ADD}"
    if lost:
        return (
            f"lacks {lost[0].name}: put it back, and leave it out of steps with "
            "weight.requires_grad_(False) and weight.grad = None"
        )
    first = next((i for i, (a, b) in enumerate(zip(given, names, strict=False)) if a != b), -1)
    return (
        f"has its weights in another order or twice, from {names[given[first]]} on: leave them "
        "in the order of param_names"
    )


class ModelWatch:
    """Looks once a step whether the optimizer's weights are still those that the model trains.

    The model is not kept alive.  What was told once is not told again.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = ref(model)
        self._seen: tuple[set[int], set[int]] | None = None
        self._told: set[tuple[str, str]] = set()

    @property
    def model(self) -> nn.Module | None:
        """The model, as long as somebody else keeps it."""
        return self._model()

    def check_has(self, name: str, weight: Tensor) -> None:
        """Raise ValueError if the model is there and has another weight under this name."""
        model = self._model()
        found = {} if model is None else dict(model.named_parameters(remove_duplicate=False))
        if model is not None and found.get(name) is not weight:
            raise ValueError(
                f"the model has another {name}, and metrics read what its layer shows: put the new "
                "tensor into the model, then call optimizer.replace"
            )

    def look(self, weights: Sequence[DeclaredWeight]) -> None:
        """Warn, once by name, of trained weights of the model that the optimizer does not have.

        And of its own that the model does not have any more.  Waits for no device.
        """
        model = self._model()
        if model is None:
            return
        owned = {id(each.weight): each.name for each in weights}
        strangers, found = _strangers(model, owned)
        if (strangers, found) == self._seen:
            return
        self._seen = strangers, found
        new = [name for name, weight in model.named_parameters() if id(weight) in strangers]
        self._tell(
            {
                "trained in the model, but no weight of the optimizer": new,
                "no longer in the model": [owned[i] for i in owned if i not in found],
            }
        )

    def _tell(self, findings: Mapping[str, Sequence[str]]) -> None:
        untold = {
            what: [name for name in names if (what, name) not in self._told]
            for what, names in findings.items()
        }
        self._told |= {(what, name) for what, names in untold.items() for name in names}
        parts = [f"{what}: {shortened(names)}" for what, names in untold.items() if names]
        if parts:
            logger.warning(
                "%s; one in place of another is told with %s, a new one with %s",
                "; ".join(parts),
                REPLACE,
                ADD,
            )


def _strangers(model: nn.Module, owned: Collection[int]) -> tuple[set[int], set[int]]:
    """Ids of weights with a gradient that are not owned, and of those that are and were found."""
    # A stack of its own: named_parameters() takes ten times as long, in every step.
    strangers, found = set(), set()
    stack, known = [model], {id(model)}
    while stack:
        module = stack.pop()
        for weight in module._parameters.values():
            if id(weight) in owned:
                found.add(id(weight))
            elif weight is not None and weight.requires_grad and weight.grad is not None:
                if weight.numel():
                    strangers.add(id(weight))
        for inner in module._modules.values():
            if inner is not None and id(inner) not in known:
                known.add(id(inner))
                stack.append(inner)
    return strangers, found
