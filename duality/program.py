"""What a derivation produces: a few named lines of arithmetic that can be read before they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from modula.kernels.op import Cost, Locality, Op, Shape

INPUTS = ("weight", "gradient", "lr")
COUNTERS = ("step",)  # state that is one number a weight, not one an entry


@dataclass(frozen=True)
class Live:
    """An option that the user may change between steps: it stands in param_groups under `name`."""

    name: str
    value: float


@dataclass(frozen=True)
class Line:
    """result = op(*reads, **options).  The option `scale` may differ between weights of a batch.

    shape  of what the op works on, for its cost; None where it is the weight's own
    """

    result: str
    op: Op
    reads: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.op.writes_first and self.result != self.reads[0]:
            raise ValueError(f"{self.op.name} overwrites {self.reads[0]}, not {self.result}")

    @property
    def signature(self) -> Line:
        """The line without what may differ within a batch."""
        return replace(self, options=tuple(o for o in self.options if o[0] != "scale"))

    def values(self) -> dict[str, Any]:
        """The options at their declared values."""
        return {k: v.value if isinstance(v, Live) else v for k, v in self.options}

    def renamed(self, names: Mapping[str, str]) -> Line:
        """The same line over other names."""
        reads = tuple(names.get(read, read) for read in self.reads)
        return replace(self, result=names.get(self.result, self.result), reads=reads)

    def __str__(self) -> str:
        options = (f"{k}={_short(v)}" for k, v in self.values().items())
        return f"{self.result} = {self.op.name}({', '.join((*self.reads, *options))})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def line(result: str, op: Op, *reads: str, **options: Any) -> Line:
    """A Line, written the way it is printed."""
    return Line(result, op, reads, tuple(options.items()))


@dataclass(frozen=True)
class Program:
    """The update of one weight.  `direction` names the tensor D, `size` the norm-one factor:

    proposal  lines from the gradient to the direction; they advance the state
    update    lines from the direction to the new weight
    direction name of the tensor that the step follows, out of `proposal`
    query     name of the tensor that the direction is dual to
    """

    proposal: tuple[Line, ...]
    update: tuple[Line, ...]
    direction: str = "direction"
    query: str = "gradient"

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines in order."""
        return self.proposal + self.update

    @property
    def state(self) -> tuple[str, ...]:
        """Names that outlive a step: those read before they are written."""
        written: set[str] = set(INPUTS)
        names: dict[str, None] = {}
        for each in self.lines:
            names.update((read, None) for read in each.reads if read not in written)
            written.add(each.result)
        return tuple(names)

    @property
    def live(self) -> dict[str, float]:
        """Options that stand in param_groups, with their declared values."""
        values = (value for each in self.lines for _, value in each.options)
        return {value.name: value.value for value in values if isinstance(value, Live)}

    @property
    def signature(self) -> Program:
        """Equal for two weights that can be advanced in one batch."""
        return replace(
            self,
            proposal=tuple(each.signature for each in self.proposal),
            update=tuple(each.signature for each in self.update),
        )

    @property
    def is_elementwise(self) -> bool:
        """Whether entries never mix, so that weights of any shape share a batch."""
        return all(each.op.locality is Locality.ELEMENTWISE for each in self.lines)

    def cost(self, shape: Shape, itemsize: int) -> Cost:
        """Work of one step on one weight."""
        return sum((each.op.cost(shape, itemsize, **each.values()) for each in self.lines), Cost())

    def run(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Every named tensor after one step, by the plain twins: the definition.

        Takes weight, gradient, lr and each name in `state`; changes none of them.
        """
        for each in self.lines:
            reads = (tensors[name] for name in each.reads)
            tensors[each.result] = each.op.plain(*reads, **each.values())
        return tensors

    def __str__(self) -> str:
        return "\n".join(map(str, self.lines))
