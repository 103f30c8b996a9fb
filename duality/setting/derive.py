"""The table of derivation rules, and dispatch to the most specific one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache

from torch import Tensor

from modula.duality.program.line import Line, renamed
from modula.duality.program.names import POINT, STATISTICS, STEP
from modula.duality.program.program import Program, counting_steps, names_known
from modula.duality.program.slot import Slots
from modula.duality.setting.accuracy import Accuracy, Exact, Fast
from modula.duality.setting.momentum import Momentum, NoMomentum
from modula.duality.setting.potential import Potential, Unit
from modula.kernels.op import Shape
from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.isospectral import Isospectral
from modula.norms.base import Norm
from modula.norms.checks import check_fields
from modula.norms.metrics.base import Metric


@dataclass(frozen=True)
class Setting:
    """Norm, manifold, metric, potential and momentum of one weight, and how accurate its direction.

    The accuracy is a way to compute it, and no part of the geometry: saved state does not know it.
    """

    norm: Norm
    manifold: Manifold = Euclidean()
    metric: Metric | None = None
    potential: Potential = Unit()
    momentum: Momentum = NoMomentum()
    accuracy: Accuracy = field(default=Fast(), repr=False)  # saved states hold settings as text

    def __post_init__(self) -> None:
        check_fields(self)

    def types(self) -> Key:
        """The types that dispatch looks at."""
        return (type(self.norm), type(self.manifold), type(self.metric), type(self.potential))


@dataclass(frozen=True)
class Measured:
    """The norm in which a direction is steepest, where it depends on the metric's state.

    reads  names of the tensors that the metric has come to when the direction is found
    norm   makes the norm out of those tensors, of one weight
    """

    reads: tuple[str, ...]
    norm: Callable[[Sequence[Tensor]], Norm]


@dataclass(frozen=True)
class Derived:
    """A rule's answer: D = scale * (the tensor named `direction`).

    lines      from "query" (and "weight") to the direction
    scale      makes its norm one under the declared norm
    after      lines that bring the stepped weight back to the manifold
    direction  name of the tensor followed
    query      name of the tensor that it is dual to
    slots      the state that the lines keep, and what it holds at first
    draw       lines from the state to "noise", if the gradient is to be taken at a random point
    measured   under a metric, the norm in which the direction is steepest; None if in none
    """

    lines: tuple[Line, ...]
    scale: float = 1.0
    after: tuple[Line, ...] = ()
    direction: str = "direction"
    query: str = "query"
    slots: Slots = ()
    draw: tuple[Line, ...] = ()
    measured: Measured | None = None

    def as_program(self) -> Program:
        """The lines alone, from the gradient in place of the query to the direction."""
        names = {"query": "gradient"}
        lines, slots = counting_steps(renamed(self.lines, names), self.slots)
        return Program(lines, (), names.get(self.direction, self.direction), slots=slots)

    def first_direction(self, weight: Tensor, query: Tensor) -> Tensor:
        """D of a first step, by the plain twins."""
        program = self.as_program()
        state = {name: program.slot(name).first(weight) for name in program.state}
        tensors = program.run(**(state | {"weight": weight, "gradient": query}))
        return self.scale * tensors[program.direction]


MEASURED = ("gradient", "query", *STATISTICS)

Key = tuple[type, type, type, type]
Rule = Callable[[Setting, Shape], Derived]
Condition = Callable[[Setting, Shape], bool]

_RULES: dict[Key, Rule] = {}
_CONDITIONS: dict[Key, Condition] = {}


def may_approximate(setting: Setting, shape: Shape) -> bool:
    """The `when` of rules that miss more than rounding of the steepest direction."""
    return not isinstance(setting.accuracy, Exact)


class NoRule(LookupError):
    """No derivation is known for a declaration."""


def derives(
    norm: type[Norm],
    manifold: type[Manifold] = Euclidean,
    metric: type[Metric] | None = None,
    potential: type[Potential] = Unit,
    when: Condition = lambda setting, shape: True,
) -> Callable[[Rule], Rule]:
    """Register the decorated function for these types and their subclasses.

    Where `when(setting, shape)` is false the rule is passed over, and the next nearest is asked.
    """
    key = (norm, manifold, type(None) if metric is None else metric, potential)
    for each in key:
        if not isinstance(each, type):
            raise ValueError(f"@derives takes types, such as Spectral or Stiefel; got {each!r}")

    def register(rule: Rule) -> Rule:
        if key in _RULES:
            names = ", ".join(each.__name__ for each in key)
            raise ValueError(f"({names}) already has a rule: {_RULES[key].__name__}")
        _RULES[key], _CONDITIONS[key] = rule, when
        _nearest_first.cache_clear()
        return rule

    return register


@cache
def _nearest_first(have: Key) -> tuple[Key, ...]:
    """The registered types that these are or derive from, the nearest first."""
    fits = [key for key in _RULES if all(issubclass(h, k) for h, k in zip(have, key, strict=True))]

    def distance(key: Key) -> tuple[int, ...]:
        return tuple(h.__mro__.index(k) for h, k in zip(have, key, strict=True))

    return tuple(sorted(fits, key=distance))


def rule_for(setting: Setting, shape: Shape) -> Rule | None:
    """The registered rule nearest to the setting's types: norm first, then manifold."""
    keys = _nearest_first(setting.types())
    return next((_RULES[key] for key in keys if _CONDITIONS[key](setting, shape)), None)


def derive(setting: Setting, shape: Shape, name: str = "weight") -> Derived:
    """The direction lines of one weight; `name` is its full name, for the error.

    Raises NoRule, with the cure, where nothing is known; ValueError where the shape does not fit.
    """
    setting.manifold.check_shape(tuple(shape))
    setting.norm.check_shape(tuple(shape))
    _check_moves_along_tangents(setting.manifold)
    if setting.metric is not None:
        _check_statistics(setting.metric)
    rule = rule_for(setting, shape)
    if rule is None:
        raise NoRule(_no_rule(name, setting, shape))
    derived = rule(setting, shape)
    # Here, where names are the rule's own: later "query" is what the momentum calls it.
    names_known((*derived.lines, *derived.after), derived.slots, "query", POINT, STEP)
    return derived


def _check_statistics(metric: Metric) -> None:
    """Raise ValueError for a statistic that nothing measures: the metric would never learn."""
    for key in metric.named:
        name = getattr(metric, key)
        if name and name not in MEASURED:
            (near,) = get_close_matches(name, MEASURED, n=1, cutoff=0.0)
            raise ValueError(
                f"{metric} has {key}={name!r}, which nothing measures: the nearest is {near!r}"
            )
    for part in metric.parts().values():
        _check_statistics(part)


def rule_name(setting: Setting, shape: Shape) -> str:
    """The name of the rule that `derive` would use, as the plan prints it."""
    rule = rule_for(setting, shape)
    return "none" if rule is None else rule.__name__


def _check_moves_along_tangents(manifold: Manifold) -> None:
    """Raise ValueError for one whose weights rotate: what is derived then is their coordinates'."""
    if isinstance(manifold, Isospectral) and manifold.rotations is not None:
        raise ValueError(
            f"{manifold} moves weights by rotations, whose coordinates have a direction, and not "
            f"along tangents: {replace(manifold, rotations=None)} does that"
        )


def _no_rule(name: str, setting: Setting, shape: Shape) -> str:
    norm, manifold, metric, potential = setting.types()
    known = sorted(
        {
            key[1].__name__
            for key in _RULES
            if issubclass(norm, key[0]) and issubclass(metric, key[2]) and key[3] is potential
        }
    )
    declared = f"norm {setting.norm}, manifold {setting.manifold}"
    key = f"{norm.__name__}, {manifold.__name__}"
    if setting.metric is not None:
        key += f", metric={metric.__name__}"
        declared += f", metric {setting.metric}"
    if not isinstance(setting.potential, Unit):
        key += f", potential={potential.__name__}"
        declared += f", potential {setting.potential}"
    return (
        f"no rule derives an update for {name} {tuple(shape)}\n"
        f"  declared:  {declared}\n"
        f"  {norm.__name__} has rules for:  {', '.join(known) or 'none of this kind'}\n"
        f"  to fix:  declare one of those manifolds, or write @derives({key}) in duality/"
    )
