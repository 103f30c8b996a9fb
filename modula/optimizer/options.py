"""Options of the optimizer, checked before anything is built."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modula.duality import Accuracy, Average, Decay, Fast, Momentum, Potential, Unit
from modula.network.declare import check_model
from modula.norms.checks import check_kind, check_not_negative
from modula.optimizer.automatic import Automatic
from modula.optimizer.param_groups import Group

KINDS = (
    ("lr", float | Automatic, 0.1),
    ("momentum", Momentum, Average(0.95)),
    ("potential", Potential, Unit()),
    ("weight_decay", float | Decay, 0.0),
    ("groups", Sequence[Group] | None, None),
    ("maximize", bool, False),
    ("accuracy", Accuracy | None, Fast()),
)


def check_options(
    model: object, given: Sequence[object], on_nonfinite: object, state_dtype: object
) -> None:
    """Raise ValueError for an argument of another kind; given: those of KINDS, in order."""
    check_model("SteepestDescent", model)
    for (name, kind, default), value in zip(KINDS, given, strict=True):
        check_kind("SteepestDescent", name, value, kind, default)
    lr = given[0]
    check_not_negative("lr", lr if isinstance(lr, int | float) else 1.0)
    if on_nonfinite not in ("raise", "skip"):
        raise ValueError(f'on_nonfinite is "raise" or "skip"; got {on_nonfinite!r}')
    if state_dtype not in (None, torch.bfloat16):
        raise ValueError(f"state_dtype is torch.bfloat16 or None; got {state_dtype}")
