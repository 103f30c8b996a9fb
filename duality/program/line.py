"""A line of a program: one op on named tensors, and its options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

from modula.duality.program import refresh
from modula.kernels.op import Op, Twin

NONE: Mapping[str, float] = {}


class Role(Enum):
    """The part a line has in the step of its weight."""

    COMPUTE = "compute"  # anything else
    DECAY = "decay"  # draws the weight to zero, in proportion to lr
    STEP = "step"  # moves it along the direction, by lr times the option `scale`


@dataclass(frozen=True)
class Live:
    """An option that the user may change between steps, as param_groups hold it.

    name    by which it is known to whoever reads param_groups
    factor  what the op gets is this times the number that stands there
    """

    name: str
    value: float
    factor: float = 1.0

    def given(self, live: Mapping[str, float] = NONE) -> float:
        """What the op gets: by the number in `live`, or by the declared one."""
        return live.get(self.name, self.value) * self.factor


@dataclass(frozen=True)
class PerWeight:
    """An option that may differ between the weights of a batch, such as a budget."""

    value: float


@dataclass(frozen=True)
class Line:
    """result = op(*reads, **options)

    options  a value, Live, or PerWeight for ops that take lists of weights
    shape    of what the op works on, for its cost; None where it is the weight's own
    every    steps from one run to the next; the weights of a network take turns
    early    whether fewer steps pass at first: 1, 2, 4, 8, ...
    role     what it does to the weight

    A line that reads what was not computed or not collected in this step is left out likewise,
    unless that is state.
    """

    result: str
    op: Op
    reads: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, ...] | None = None
    every: int = 1
    early: bool = True
    role: Role = Role.COMPUTE

    def __post_init__(self) -> None:
        if self.op.writes_first and self.result != self.reads[0]:
            raise ValueError(f"{self.op.name} overwrites {self.reads[0]}, not {self.result}")
        if self.op.foreach is not None:
            return
        differing = [name for name, value in self.options if isinstance(value, PerWeight)]
        if differing:
            raise ValueError(
                f"{self.op.name} runs on all weights of a batch at once, and its option "
                f"{differing[0]} cannot differ by weight: give it a value without PerWeight"
            )

    @property
    def signature(self) -> Line:
        """The line without what may differ within a batch."""
        if not any(isinstance(value, PerWeight) for _, value in self.options):
            return self
        options = ((k, PerWeight(0.0) if isinstance(v, PerWeight) else v) for k, v in self.options)
        return replace(self, options=tuple(options))

    def values(self, live: Mapping[str, float] = NONE) -> dict[str, Any]:
        """The options of one weight: live ones as `live` has them, or as declared."""
        return {name: _value(option, live) for name, option in self.options}

    def bound(self, twin: Twin) -> Twin:
        """A twin of the op with the options as declared: the line runs as bound(twin)(*reads).

        Live options and those that differ by weight are given anew as keywords.
        """
        return partial(twin, **self.values())

    def in_role(self, role: Role) -> Line:
        """The same line, declared to do this to the weight."""
        return replace(self, role=role)

    def renamed(self, names: Mapping[str, str]) -> Line:
        """The same line over other names."""
        reads = tuple(names.get(read, read) for read in self.reads)
        return replace(self, result=names.get(self.result, self.result), reads=reads)

    def is_due(self, step: int, offset: int = 0) -> bool:
        """Whether the line runs in this step, counted from 1, of a weight with this turn."""
        return self.every == 1 or refresh.is_due(step, self.every, self.early, offset)

    def __str__(self) -> str:
        options = (f"{k}={_short(v)}" for k, v in self.values().items())
        text = f"{self.result} = {self.op.name}({', '.join((*self.reads, *options))})"
        return text if self.every == 1 else f"{text}    every {self.every} steps"


def _value(option: Any, live: Mapping[str, float]) -> Any:
    if isinstance(option, Live):
        return option.given(live)
    return option.value if isinstance(option, PerWeight) else option


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def line(
    result: str,
    op: Op,
    *reads: str,
    on: tuple[int, ...] | None = None,
    every: int = 1,
    **options: Any,
) -> Line:
    """A Line, written the way it is printed; `on` is its shape."""
    return Line(result, op, reads, tuple(options.items()), on, every)


def renamed(lines: Iterable[Line], names: Mapping[str, str]) -> tuple[Line, ...]:
    """The same lines over other names."""
    return tuple([each.renamed(names) for each in lines])
