"""The state that `optimizer.state` shows: what a person does to it is what the next step reads."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modula.duality import Batch
from modula.errors import suggest
from modula.optimizer.param_groups import DeclaredWeight

logger = logging.getLogger(__name__)


class Held(NamedTuple):
    """A weight, and the place of its state in the batch that advances it."""

    declared: DeclaredWeight
    batch: Batch
    place: int


class PublicState:
    """Views of the batches' state, by weight and name, and the way back from a changed mapping.

        what is missing              starts anew, at its first value
        a tensor that was put in     is copied to where the batch keeps its own
        a name that nothing keeps    is refused

    Afterwards the mapping shows the views again.  What was not touched is told by identity alone,
    so that no step waits for a device.
    """

    def __init__(self, held: Sequence[Held]) -> None:
        self._held = list(held)
        self._views = {each.declared.weight: each.batch.state_of(each.place) for each in self._held}
        self._shown = _identities(self._views)
        self._pointers = _pointers(self._views)

    @property
    def is_elsewhere(self) -> bool:
        """Whether a view was given other memory (`x.data = ...`), which its batch does not see."""
        return _pointers(self._views) != self._pointers

    def copied(self) -> defaultdict[Tensor, dict[str, Tensor]]:
        """The state in tensors of its own: a view is pickled with all of its batch's buffer."""
        views = self._views.items()
        return defaultdict(dict, {w: {k: x.clone() for k, x in own.items()} for w, own in views})

    def take_over_(self, state: dict[Any, Any]) -> bool:
        """Make the batches hold what the mapping says; whether that was anything new.

        Raises ValueError, with nothing changed, for what no batch can hold.
        """
        if not isinstance(state, dict):
            raise ValueError(
                f"optimizer.state is a mapping from weights to their state; got a "
                f"{type(state).__name__}: call optimizer.reset() to start anew"
            )
        if _identities(state) == self._shown:
            return False
        self._refuse_strangers(state)
        changes = [
            (each, name, value)
            for each in self._held
            for name, value in self._changes(each, state.get(each.declared.weight))
        ]
        narrowed = []
        with torch.no_grad():
            for each, name, value in changes:
                if value is None:
                    each.batch.reset_(each.place, name)
                    continue
                view = self._views[each.declared.weight][name]
                view.copy_(value)
                if is_narrower(view.dtype, value.dtype):
                    narrowed.append(f"{name} of {each.declared.name} to {view.dtype}")
        if narrowed:
            more = f", and {len(narrowed) - 1} more" if len(narrowed) > 1 else ""
            logger.warning("state that came in finer was rounded once: %s%s", narrowed[0], more)
        self._show_(state)
        return True

    def drop_unkept_(self, state: dict[Any, Any]) -> None:
        """Take out of the mapping what no batch keeps any more."""
        for weight, views in self._views.items():
            for name in [*state.get(weight, {})]:
                if name not in views:
                    del state[weight][name]

    def _refuse_strangers(self, state: Mapping[Any, Any]) -> None:
        """Raise ValueError for state of what is no weight of the optimizer."""
        for key, own in state.items():
            # To look at an unknown weight in a defaultdict leaves an empty row there.
            if not isinstance(key, Tensor) or (key not in self._views and own):
                raise ValueError(
                    f"optimizer.state has a row for {_words(key)}, which is no weight of this "
                    "optimizer: where it takes the place of one, call "
                    "optimizer.replace(old, new, rows=...)"
                )

    def _changes(self, each: Held, given: Any) -> list[tuple[str, Tensor | None]]:
        """What of a weight's state is not as shown: by name a copy of the value, None without."""
        views, weight = self._views[each.declared.weight], each.declared.name
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise ValueError(
                f"the state of {weight} is a mapping from names to tensors; got {_words(given)}"
            )
        for name in given:
            if name not in views:
                raise ValueError(
                    f"the state of {weight} has {name!r}, which its program does not keep: "
                    f"{suggest(str(name), views) if views else 'it keeps none'}"
                )
        changed = [name for name, view in views.items() if given.get(name) is not view]
        missing = [name for name in changed if given.get(name) is None]
        program = each.batch.program
        lost = [name for name in missing if name in program.state]
        if program.remakes_weight and lost and len(lost) < len(program.state):
            raise ValueError(
                f"{weight} is made again from all of its state, of which {lost[0]} is missing: "
                f"start anew with optimizer.reset({weight!r})"
            )
        return [
            (name, None if name in missing else _copied(weight, name, given[name], views[name]))
            for name in changed
        ]

    def _show_(self, state: dict[Any, Any]) -> None:
        """Let the mapping show the views, in rows that the user may hold already."""
        rows, taken = {}, set[int]()
        for weight, views in self._views.items():
            own = state.get(weight)
            if not isinstance(own, dict) or id(own) in taken:  # two weights were given one row
                own = {}
            taken.add(id(own))
            own.clear()
            own.update(views)
            rows[weight] = own
        state.clear()
        state.update(rows)


def is_narrower(kept: torch.dtype, given: torch.dtype) -> bool:
    """Whether a value of the given dtype is rounded by the one that it is kept in."""
    return given.is_floating_point and torch.finfo(given).eps < torch.finfo(kept).eps


def _identities(state: Mapping[Any, Any]) -> tuple[list[int] | list[str], ...]:
    """Which weights, names and tensors stand where in the mapping."""
    rows = [own for own in state.values() if isinstance(own, dict)]
    return (
        [*map(id, state)],
        [*map(len, rows)],
        [name for own in rows for name in own],
        [id(value) for own in rows for value in own.values()],
    )


def _pointers(state: Mapping[Any, Mapping[str, Tensor]]) -> list[int]:
    return [value.data_ptr() for own in state.values() for value in own.values()]


def _copied(weight: str, name: str, given: Any, view: Tensor) -> Tensor:
    """A copy of what was put in the place of a view, which may be a view of other state."""
    value = given
    if isinstance(given, int | float):
        value = torch.tensor(float(given), dtype=view.dtype)
    check_fits(weight, name, value, view.shape)
    copy: Tensor = value.detach().clone()
    return copy


def check_fits(weight: str, name: str, value: Any, shape: torch.Size) -> None:
    """Raise ValueError unless a value can be state of this shape."""
    if not (isinstance(value, Tensor) and value.shape == shape and _is_dense_real(value)):
        raise ValueError(
            f"{name} of {weight} holds real numbers of shape {tuple(shape)}; got {_words(value)}"
        )


def _is_dense_real(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_complex() and not value.is_meta


def _words(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"a tensor of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
