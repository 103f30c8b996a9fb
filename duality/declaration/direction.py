"""The lines from the gradient to the direction: momentum, metric, norm, momentum behind."""

from __future__ import annotations

from dataclasses import replace

from modula.duality.declaration.decay import Decay
from modula.duality.program.line import renamed
from modula.duality.setting.derive import Derived, Setting, derive
from modula.kernels.op import Shape


def proposed(
    setting: Setting, shape: Shape, name: str = "weight", decay: Decay | None = None
) -> Derived:
    """The derivation of a setting from "gradient" on, its momentum included.

    Raises NoRule where nothing is known, ValueError where the shape does not fit.
    """
    derived = derive(setting, shape, name)
    names = {"query": setting.momentum.query}
    lines = (*setting.momentum.lines(), *renamed(derived.lines, names))
    direction = names.get(derived.direction, derived.direction)
    slots = (*setting.momentum.slots, *derived.slots)
    derived = replace(derived, lines=lines, direction=direction, slots=slots)
    if decay is not None:
        derived = decay.behind(derived)
    return _followed(derived, setting)


def _followed(derived: Derived, setting: Setting) -> Derived:
    """The derivation, with the momentum of its directions that the setting may ask for."""
    behind = setting.momentum.behind()
    if behind is None:
        return derived
    names = {"gradient": derived.direction, "momentum": "velocity", "query": "velocity_query"}
    lines = renamed(behind.lines(), names)
    direction = names.get(behind.query, derived.direction)
    slots = tuple((names.get(name, name), slot) for name, slot in behind.slots)
    return replace(
        derived,
        lines=(*derived.lines, *lines),
        direction=direction,
        slots=(*derived.slots, *slots),
    )
