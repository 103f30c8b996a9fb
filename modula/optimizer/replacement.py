"""A weight in place of another: which rows it takes over, and what state comes with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor

from modula.duality import Program
from modula.duality.program.slot import COUNTER
from modula.norms.checks import shown
from modula.optimizer.param_groups import DeclaredWeight

logger = logging.getLogger(__name__)

NONE = -1  # in place of a row: it had none before
Shapes = tuple[tuple[int, ...], ...]  # before and after


def check_new(old: DeclaredWeight, new: Tensor, own: Sequence[DeclaredWeight]) -> None:
    """Raise ValueError for what no optimizer can put in the place of a weight."""
    kinds = {
        f"a tensor; got {shown(new)}": isinstance(new, Tensor),
        "a leaf, such as torch.nn.Parameter(tensor)": getattr(new, "is_leaf", True),
        "trained: requires_grad_(True)": getattr(new, "requires_grad", True),
        "of one entry at least": getattr(new, "shape", (1,)).count(0) == 0,
    }
    for kind, is_so in kinds.items():
        if not is_so:
            raise ValueError(f"what takes the place of {old.name} has to be {kind}")
    if not new.is_floating_point() or new.is_meta:
        where = "on the meta device" if new.is_meta else str(new.dtype).removeprefix("torch.")
        raise ValueError(f"what takes the place of {old.name} has real values; got one {where}")
    for each in own:
        if each.weight is new and each is not old:
            raise ValueError(
                f"what takes the place of {old.name} is {each.name}, which is a weight of the "
                "optimizer already: give a tensor of its own"
            )


def checked_rows(
    name: str,
    before: tuple[int, ...],
    after: tuple[int, ...],
    rows: Sequence[int] | Tensor | None,
) -> list[int] | None:
    """The row of the old weight for each of the new one, -1 for none; None where all is kept.

    Raises ValueError unless shapes agree: in all dims without rows, behind the first with them.
    """
    if rows is None:
        if before != after:
            raise ValueError(
                f"{name} has shape {before} and its replacement {after}: say which rows it takes "
                "over with rows=..., a row of the old weight for each of the new one, -1 for none"
            )
        return None
    if not before or before[1:] != after[1:]:
        raise ValueError(
            f"{name} has shape {before} and its replacement {after}: rows=... needs weights whose "
            "dims behind the first are the same"
        )
    given = rows.tolist() if isinstance(rows, Tensor) else rows
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    found = [*given] if is_list else []
    if not is_list or len(found) != after[0] or not all(_is_row(x, before[0]) for x in found):
        raise ValueError(
            f"rows of {name} are {after[0]} whole numbers from -1 to {before[0] - 1}, one for each "
            f"row of its replacement; got {shown(rows)}"
        )
    return found


def _is_row(x: object, count: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and NONE <= x < count


def taken_state(
    name: str,
    state: Mapping[str, Tensor],
    shapes: Shapes,
    programs: Sequence[Program],
    rows: Sequence[int] | None,
) -> dict[str, Tensor]:
    """State of the new weight, by name; what is left out starts anew, with one logged line.

    Weight-shaped state is taken by rows, and so is what has a row for each of the weight's; what
    has no rows is kept.  Where some of a metric's estimate is neither, all of it starts anew: a
    count of samples is about every factor.

    state             of the old weight
    shapes, programs  of the old weight and of the new one
    """
    if programs[1].remakes_weight:  # from its own base, which is about the old weight's values
        logger.warning("%s is made again from its state, all of which starts anew", name)
        return {}
    slots = [{**dict.fromkeys(state, COUNTER), **dict(each.slots)} for each in programs]
    sized = {
        key: tuple(
            tuple(own[key].sized(x).shape or ()) for own, x in zip(slots, shapes, strict=True)
        )
        for key in state
    }
    for key, value in state.items():
        if tuple(value.shape) != sized[key][0]:
            raise ValueError(f"{key} of {name} has shape {sized[key][0]}; got {tuple(value.shape)}")
    if rows is None or rows == [*range(shapes[0][0])]:
        return dict(state)
    estimate = {
        key for key in state if slots[1][key].shape is not None and not slots[1][key].counts
    }
    with_rows = {key for key in estimate if _counts_rows(sized[key], shapes)}
    if any(not _has_no_rows(sized[key], shapes) for key in estimate - with_rows):
        logger.warning(
            "%s has other rows now, and the estimate that mixes rows starts anew: %s",
            name,
            ", ".join(key for key in state if key in estimate),
        )
        state = {key: value for key, value in state.items() if key not in estimate}
    taken = {}
    for key, value in state.items():
        taken[key] = value
        if key in with_rows or slots[1][key].shape is None:
            taken[key] = slots[1][key].first(value.new_empty(sized[key][1]))
            places = [i for i, row in enumerate(rows) if row != NONE]
            taken[key][places] = value[[rows[i] for i in places]]
    return taken


def _counts_rows(state: Shapes, weights: Shapes) -> bool:
    """Whether state of these shapes has a row for each row of the weights."""
    (was, now), (old, new) = state, weights
    leads = was[:1] == old[:1] and now[:1] == new[:1] and was[1:] == now[1:]
    # Where both weights have as many rows, a dim that is as long need not count them.
    return leads and (old[0] != new[0] or old[0] not in (*was[1:], *old[1:]))


def _has_no_rows(state: Shapes, weights: Shapes) -> bool:
    """Whether state of these shapes is about something else than rows of the weights."""
    (was, now), (old, new) = state, weights
    return was == now and (old[0] != new[0] or old[0] not in was)
