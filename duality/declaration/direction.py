"""The lines from the gradient to the direction: momentum, metric, norm, momentum behind."""

from __future__ import annotations

from dataclasses import replace

from modula.duality.declaration.decay import Decay
from modula.duality.program.line import Line, renamed
from modula.duality.rules.silence import active_line, moving_alone
from modula.duality.setting.derive import Derived, Setting, derive
from modula.kernels.op import Shape
from modula.norms.metrics.base import First


def proposed(
    setting: Setting, shape: Shape, name: str = "weight", decay: Decay | None = None
) -> Derived:
    """The derivation of a setting from "gradient" on, its momentum included.

    Raises NoRule where nothing is known, ValueError where the shape does not fit.
    """
    derived = derive(setting, shape, name)
    lines, query = _queried(setting, shape)
    names = {"query": query}
    derived = replace(
        derived,
        lines=(*lines, *renamed(derived.lines, names)),
        direction=names.get(derived.direction, derived.direction),
        query=query,
        slots=(*setting.momentum.slots, *derived.slots),
    )
    if decay is not None:
        derived = decay.behind(derived)
    return _followed(derived, setting)


def _queried(setting: Setting, shape: Shape) -> tuple[tuple[Line, ...], str]:
    """Lines from the gradient to what the direction is derived from, and its name."""
    momentum, chained = setting.momentum, isinstance(setting.metric, First)
    averages = momentum.query != "gradient"
    if not averages or not setting.potential.normalises or chained:  # a chain leaves out by itself
        return momentum.lines(), momentum.query
    still = active_line(moving_alone(setting, shape), momentum.query)
    return (*momentum.lines(), still), still.result


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
