"""What a derivation produces: a few named lines of arithmetic that can be read before they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from modula.kernels.op import Cost, Locality, Op, Shape

MEAN_SQUARE = "mean_square"  # of all weights' second moments, known once all directions are
POINT = "point"  # where the weight was before the step: for lines after it
INPUTS = ("weight", "gradient", "lr", MEAN_SQUARE)
ROUNDINGS = "roundings"  # steps in which state was rounded at random
# State that the host counts: read without waiting for a device.
COUNTERS = ("step", "since", ROUNDINGS)
# What a network's data says about a weight besides its gradient; modula.statistics collects it.
FROM_LAYERS = (
    *("input_moment", "output_moment", "layer_inputs", "output_gradients"),
    *("reduced_input_moment", "reduced_output_moment"),
    *("reduced_layer_inputs", "reduced_output_gradients"),
)
MICROBATCHES, SAMPLED_MICROBATCHES = "microbatch_gradients", "sampled_microbatch_gradients"
SAMPLED_GRADIENT = "sampled_gradient"
# At labels drawn from the network itself: the Fisher; the training loss has an empirical one.
SAMPLED = (
    SAMPLED_GRADIENT,
    SAMPLED_MICROBATCHES,
    *(f"sampled_{name}" for name in FROM_LAYERS),
)
NOISE = "noise"  # by which a weight is moved before its gradient is taken
GRADIENT_TIMES_NOISE = "gradient_times_noise"  # entry by entry, summed over the passes of a step
STATISTICS = (*FROM_LAYERS, MICROBATCHES, *SAMPLED, GRADIENT_TIMES_NOISE)


@dataclass(frozen=True)
class Slot:
    """What one name of a weight's state holds before the first step.

    shape     of the tensor; None for the weight's own
    fill      of every entry
    diagonal  of the entries on the diagonal of each square matrix, where it differs
    """

    shape: Shape | None = None
    fill: float = 0.0
    diagonal: float | None = None

    def first(self, weight: Tensor) -> Tensor:
        """The first value, for a weight or a batch of them."""
        x = weight.new_empty(weight.shape if self.shape is None else self.shape)
        self.fill_(x)
        return x

    def fill_(self, x: Tensor) -> None:
        """Write the first value into x."""
        x.fill_(self.fill)
        if self.diagonal is not None:
            x.diagonal(dim1=-2, dim2=-1).fill_(self.diagonal)


Slots = tuple[tuple[str, Slot], ...]


@dataclass(frozen=True)
class Live:
    """An option that the user may change between steps: it stands in param_groups under `name`."""

    name: str
    value: float


@dataclass(frozen=True)
class Line:
    """result = op(*reads, **options).  The option `scale` may differ between weights of a batch.

    shape  of what the op works on, for its cost; None where it is the weight's own
    every  steps from one run to the next; the weights of a network take turns
    early  whether fewer steps pass at first: 1, 2, 4, 8, ...

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
        text = f"{self.result} = {self.op.name}({', '.join((*self.reads, *options))})"
        return text if self.every == 1 else f"{text}    every {self.every} steps"

    def is_due(self, step: int, offset: int = 0) -> bool:
        """Whether the line runs in this step, counted from 1, of a weight with this turn.

        If `early`, in steps 1, 2, 4, 8, ... too: what averages say then changes fast.
        """
        young = step <= self.every and step & (step - 1) == 0 if self.early else step == 1
        return young or (step + offset) % self.every == 0


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
    slots     what state holds at first, where that is not a weight-shaped zero
    draw      lines from the state to "noise", by which the weight is to be moved before the
              gradient is taken; () where it is taken at the weight itself
    """

    proposal: tuple[Line, ...]
    update: tuple[Line, ...]
    direction: str = "direction"
    query: str = "gradient"
    slots: Slots = ()
    draw: tuple[Line, ...] = ()

    def __post_init__(self) -> None:
        lost = self._sometimes() & {self.direction, self.query}
        if lost:
            raise ValueError(f"{min(lost)} is not always computed and nothing keeps its value")

    def _sometimes(self) -> set[str]:
        """Names that are missing in the steps in which a line is left out: state is not."""
        state, missing = {*self.state}, set[str]()
        for each in self.proposal:
            if each.every > 1 or missing & {*each.reads}:
                missing |= {each.result} - state
            else:
                missing.discard(each.result)
        return missing

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines in order."""
        return self.proposal + self.update

    @property
    def decided(self) -> int:
        """How many lines of the proposal it takes until the direction and its query are known."""
        names = (self.direction, self.query)
        found = (i for i, each in enumerate(self.proposal, 1) if each.result in names)
        return max(found, default=0)

    @property
    def state(self) -> tuple[str, ...]:
        """Names that outlive a step: those read before they are written."""
        written = {*INPUTS, *STATISTICS}
        names: dict[str, None] = dict.fromkeys(name for name, _ in self.slots)
        for each in (*self.draw, *self.lines):
            names.update((read, None) for read in each.reads if read not in written)
            written.add(each.result)
        return tuple(names)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names that have to be collected from the network."""
        return tuple(dict.fromkeys(r for each in self.lines for r in each.reads if r in STATISTICS))

    def slot(self, name: str) -> Slot:
        """What a name of the state holds at first."""
        return dict(self.slots).get(name, Slot())

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
        local = all(each.op.locality is Locality.ELEMENTWISE for each in self.lines)
        own_shape = all(slot.shape is None for _, slot in self.slots)
        return local and own_shape and not self.statistics

    def state_bytes(self, shape: Shape, itemsize: int, kept: int | None = None) -> int:
        """Bytes of one weight's state, computed in itemsize; kept: of weight-shaped entries."""
        slots = [self.slot(name).shape for name in self.state if name not in COUNTERS]
        full = sum(prod(own) for own in slots if own is not None) * itemsize
        return full + slots.count(None) * prod(shape) * (kept or itemsize)

    def cost(self, shape: Shape, itemsize: int) -> Cost:
        """Work of one step on one weight, averaged over the steps that a line is left out."""
        return sum((_share(each, shape, itemsize) for each in self.lines), Cost())

    def run(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Every named tensor after one step, by the plain twins: the definition.

        Takes weight, gradient, lr, each name in `state`, and what statistics and numbers of the
        whole network there are; changes none of them.
        """
        state = self.state
        for each in self.lines:
            known = all(name in tensors for name in each.reads)
            if known and each.is_due(int(tensors.get("step", 0))):
                reads = (tensors[name] for name in each.reads)
                tensors[each.result] = each.op.plain(*reads, **each.values())
            elif each.result not in state:
                tensors.pop(each.result, None)
        return tensors

    def __str__(self) -> str:
        return "\n".join(map(str, self.lines))


def _share(each: Line, shape: Shape, itemsize: int) -> Cost:
    cost = each.op.cost(each.shape or shape, itemsize, **each.values())
    return Cost(cost.flops / each.every, cost.bytes / each.every)
