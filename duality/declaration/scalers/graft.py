"""Grafting: the direction of one optimizer at the length of another's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from modula.duality.declaration.direction import proposed
from modula.duality.declaration.scalers.base import Scaler, continued_by
from modula.duality.program.line import Line, Live, line
from modula.duality.setting.accuracy import Fast
from modula.duality.setting.derive import Derived, Setting
from modula.kernels.elementwise import length
from modula.kernels.op import Shape


@dataclass(frozen=True)
class Graft(Scaler):
    """As long as the direction that another setting would have taken: d <- ||d'|| d / ||d||.

    The other setting runs beside this one on state of its own, named graft_...; lines that both
    have, such as an equal momentum, run once.

    setting  whose direction d' gives the length, found no less accurately than d
    Source: Agarwal et al. 2020, arXiv:2002.11803.
    """

    turns: ClassVar[bool] = False

    setting: Setting

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        own = self.setting
        accuracy = setting.accuracy if isinstance(own.accuracy, Fast) else own.accuracy
        graft = replace(own, norm=own.norm.over(len(shape)), accuracy=accuracy)
        other = _beside(derived, proposed(graft, shape))
        ndim = len(shape)
        return continued_by(
            derived,
            *other.lines,
            line("length", length.length, other.direction, ndim=ndim),
            line("grafted", length.at_length, derived.direction, "length", ndim=ndim),
            scale=other.scale,
            slots=(*derived.slots, *other.slots),
        )


def _beside(derived: Derived, other: Derived) -> Derived:
    """Another derivation with names of its own for all that is not the same in both."""
    names: dict[str, str] = {}
    known = -1
    while len(names) > known:  # a line that reads what differs differs too
        known = len(names)
        for each in other.lines:
            if each not in derived.lines or {each.result, *each.reads} & names.keys():
                names[each.result] = f"graft_{each.result}"
    own = tuple(_as_own(each, names) for each in other.lines if each.result in names)
    return replace(
        other,
        lines=own,
        direction=names.get(other.direction, other.direction),
        slots=tuple((names[name], slot) for name, slot in other.slots if name in names),
    )


def _as_own(each: Line, names: dict[str, str]) -> Line:
    """The line under the new names, its live options apart from those of the others."""
    options = tuple(
        (key, replace(value, name=f"graft_{value.name}") if isinstance(value, Live) else value)
        for key, value in each.options
    )
    return replace(each.renamed(names), options=options)
