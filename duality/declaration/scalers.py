"""What happens to a direction before the step: its length from elsewhere, its rows made even."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any, ClassVar

from modula.duality.declaration.direction import proposed
from modula.duality.program.line import Line, Live, line
from modula.duality.program.slot import Slot
from modula.duality.setting.derive import Derived, Setting
from modula.kernels.elementwise import averages, length
from modula.kernels.elementwise.normalise import normalise
from modula.kernels.op import Shape
from modula.manifolds.euclidean import Euclidean
from modula.norms.checks import check_fields


class Scaler(ABC):
    """Goes between the direction and the step, with state of its own if it needs any.

    A Declaration holds any number of kinds; each sees what the ones before it have made.

    turns  whether the direction changes, not only its length
    """

    def __post_init__(self) -> None:
        check_fields(self)

    turns: ClassVar[bool] = True

    @abstractmethod
    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        """The derivation with this scaler's lines behind it.

        derived  everything up to the direction d; the step follows derived.scale * d
        """


def _then(derived: Derived, *lines: Line, scale: float | None = None, **changes: Any) -> Derived:
    """The derivation, continued by lines of which the last gives the direction."""
    return replace(
        derived,
        lines=(*derived.lines, *lines),
        direction=lines[-1].result,
        scale=derived.scale if scale is None else scale,
        **changes,
    )


def _check_beta(what: object, beta: float) -> None:
    if not 0 <= beta < 1:
        raise ValueError(f"{what} needs a beta in [0, 1)")


@dataclass(frozen=True)
class MatchRMS(Scaler):
    """Every direction has the same root mean square: d <- rms d / rms(d).

    0.2 is about the RMS of an update of Adam, whose learning rates then carry over.
    Source: Liu et al. 2025 (Moonlight), arXiv:2502.16982.
    """

    turns: ClassVar[bool] = False

    rms: float = 0.2

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.rms > 0:
            raise ValueError(f"MatchRMS needs a positive rms; got {self.rms}")

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        matched = line("matched", normalise, derived.direction, ndim=len(shape))
        return _then(derived, matched, scale=self.rms * sqrt(prod(shape)))


@dataclass(frozen=True)
class LimitRMS(Scaler):
    """No direction has a root mean square above a limit: d <- min(1, limit / rms(d)) d.

    A guard: after a long silence a metric takes the first new gradient for something huge.
    """

    turns: ClassVar[bool] = False

    limit: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.limit > 0:
            raise ValueError(f"LimitRMS needs a positive limit; got {self.limit}")

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        most = self.limit * sqrt(prod(shape)) / derived.scale
        limited = line(
            "limited", length.limit_length, derived.direction, limit=most, ndim=len(shape)
        )
        return _then(derived, limited)


@dataclass(frozen=True)
class RowMoments(Scaler):
    """Rows of equal size on average over steps, at the length that the direction had: NorMuon.

        v <- beta v + (1 - beta) mean_j d_ij^2;   d' = d_ij / sqrt(v_i);   d <- ||d|| d' / ||d'||

    A row is one output: what the first dim of a weight counts.  v starts at zero without bias
    correction, whose factor would cancel; an entry of d' is at most sqrt(columns / (1 - beta)).
    Source: Li et al. 2025, arXiv:2510.05491.
    """

    beta: float = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
        _check_beta(self, self.beta)

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        if len(shape) < 2:
            raise ValueError(f"{self} needs a weight with rows; got shape {tuple(shape)}")
        moment = line(
            "row_moment",
            length.average_row_square,
            "row_moment",
            derived.direction,
            beta=self.beta,
        )
        slots = (*derived.slots, ("row_moment", Slot((shape[0],))))
        return replace(_evened(self, derived, setting, shape, moment), slots=slots)


@dataclass(frozen=True)
class EntryMoments(Scaler):
    """Entries of equal size on average over steps, at the length that the direction had: AdaMuon.

        v <- beta v + (1 - beta) d^2;   d' = d / sqrt(v);   d <- ||d|| d' / ||d'||

    Source: Si, Zhang, Shen 2025, arXiv:2507.11005.
    """

    beta: float = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
        _check_beta(self, self.beta)

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        moment = line(
            "entry_moment",
            averages.average_square,
            "entry_moment",
            derived.direction,
            beta=self.beta,
        )
        slots = (*derived.slots, ("entry_moment", Slot()))
        return replace(_evened(self, derived, setting, shape, moment), slots=slots)


def _evened(
    scaler: Scaler, derived: Derived, setting: Setting, shape: Shape, moment: Line
) -> Derived:
    """The direction over the root of a moment of itself, at its own length."""
    if not isinstance(setting.manifold, Euclidean):
        raise ValueError(
            f"{scaler} would turn a direction out of the tangent space of {setting.manifold}; "
            "it needs Euclidean()"
        )
    ndim, direction = len(shape), derived.direction
    return _then(
        derived,
        moment,
        line("even", length.over_root, direction, moment.result),
        line("length", length.length, direction, ndim=ndim),
        line("evened", length.at_length, "even", "length", ndim=ndim),
    )


@dataclass(frozen=True)
class Hyperball(Scaler):
    """The weight keeps its length R = ||W||, and lr is the step as a part of it: MuonH, AdamH.

        W <- R unit(W - lr R unit(d)),    unit(x) = x / ||x||

    Any direction on a sphere, not projected on its tangent space.  A zero weight never moves.
    """

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        if not isinstance(setting.manifold, Euclidean):
            raise ValueError(
                f"Hyperball keeps weights on a sphere and {setting.manifold} elsewhere: choose one"
            )
        ndim = len(shape)
        return _then(
            derived,
            line("radius", length.length, "weight", ndim=ndim),
            line("stretched", length.at_length, derived.direction, "radius", ndim=ndim),
            scale=1.0,
            after=(line("weight", length.at_length, "weight", "radius", ndim=ndim),),
        )


@dataclass(frozen=True)
class Graft(Scaler):
    """As long as the direction that another setting would have taken: d <- ||d'|| d / ||d||.

    The other setting runs beside this one on state of its own, named graft_...; lines that both
    have, such as an equal momentum, run once.

    setting  whose direction d' gives the length
    Source: Agarwal et al. 2020, arXiv:2002.11803.
    """

    turns: ClassVar[bool] = False

    setting: Setting

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        graft = replace(self.setting, norm=self.setting.norm.over(len(shape)))
        other = _beside(derived, proposed(graft, shape))
        ndim = len(shape)
        return _then(
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
        (key, Live(f"graft_{value.name}", value.value) if isinstance(value, Live) else value)
        for key, value in each.options
    )
    return replace(each.renamed(names), options=options)
