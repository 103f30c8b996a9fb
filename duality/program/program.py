"""Programs: the update of one weight as a few named lines, readable before they run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod

from torch import Tensor

from modula.duality.program.line import Line, Live, line
from modula.duality.program.names import INPUTS, MEAN_SQUARE, STATISTICS, STEP
from modula.duality.program.slot import COUNTER, Slot, Slots
from modula.kernels.elementwise import update
from modula.kernels.op import Cost, Error, Locality, Shape


@dataclass(frozen=True)
class Program:
    """The update of one weight: lines in order, and the state that they keep between steps.

    proposal   lines from the gradient to the direction; they advance the state
    update     lines from the direction to the new weight
    direction  name of the tensor that the step follows, out of `proposal`
    query      name of the tensor that the direction is dual to
    slots      all state: each name that outlives a step, and what it holds at first
    draw       lines from the state to "noise", by which the weight is to be moved before the
               gradient is taken; () where it is taken at the weight itself

    Raises ValueError for a name that is read but neither written before, nor declared in `slots`,
    nor given by INPUTS or STATISTICS.
    """

    proposal: tuple[Line, ...]
    update: tuple[Line, ...]
    direction: str = "direction"
    query: str = "gradient"
    slots: Slots = ()
    draw: tuple[Line, ...] = ()

    def __post_init__(self) -> None:
        self._check_names()
        lost = self._sometimes() & {self.direction, self.query}
        if lost:
            raise ValueError(f"{min(lost)} is not always computed and nothing keeps its value")

    def _check_names(self) -> None:
        """Raise ValueError for a name that nothing gives a value."""
        known = names_known((*self.draw, *self.lines), self.slots)
        for role, name in (("direction", self.direction), ("query", self.query)):
            if name not in known:
                raise ValueError(f"the {role} of a program is {name!r}, {_unknown(name, known)}")
        if MEAN_SQUARE in self._reads and self.second_moment is None:
            raise ValueError(
                f"a line reads {MEAN_SQUARE!r}, and no slot is declared as a second moment"
            )

    @property
    def _reads(self) -> set[str]:
        return {read for each in self.lines for read in each.reads}

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
        """Names of all state."""
        return tuple(dict.fromkeys(name for name, _ in self.slots))

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names that have to be collected from the network."""
        return tuple(dict.fromkeys(r for each in self.lines for r in each.reads if r in STATISTICS))

    def slot(self, name: str) -> Slot:
        """The slot of a name of the state."""
        return dict(self.slots)[name]

    @property
    def second_moment(self) -> str | None:
        """The state that averages the gradient's squares, if any does: Adam's v."""
        return next((name for name, slot in self.slots if slot.second_moment), None)

    @property
    def reads_mean_square(self) -> bool:
        """Whether a line waits for the mean square of the whole network's gradients."""
        return MEAN_SQUARE in self._reads

    @property
    def remakes_weight(self) -> bool:
        """Whether the weight is made from state alone: what is written into it is undone."""
        makers = [each for each in self.update if each.result == "weight"]
        return bool(makers) and not any("weight" in each.reads for each in makers)

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
            proposal=tuple([each.signature for each in self.proposal]),
            update=tuple([each.signature for each in self.update]),
        )

    @property
    def is_elementwise(self) -> bool:
        """Whether entries never mix, so that weights of any shape share a batch."""
        local = all(each.op.locality is Locality.ELEMENTWISE for each in self.lines)
        own_shape = all(slot.counts or slot.shape is None for _, slot in self.slots)
        return local and own_shape and not self.statistics

    def state_bytes(self, shape: Shape, itemsize: int, kept: int | None = None) -> int:
        """Bytes of one weight's state, computed in itemsize; kept: of weight-shaped entries."""
        shapes = [slot.shape for slot in dict(self.slots).values() if not slot.counts]
        full = sum(prod(own) for own in shapes if own is not None) * itemsize
        return full + shapes.count(None) * prod(shape) * (kept or itemsize)

    def cost(self, shape: Shape, itemsize: int) -> Cost:
        """Work of one step on one weight, averaged over the steps that a line is left out."""
        return sum((_share(each, shape, itemsize) for each in self.lines), Cost())

    def error(self, shape: Shape, itemsize: int) -> Error:
        """The worst of its lines; Error() where all are right to rounding."""
        return max((_error(each, shape, itemsize) for each in self.lines), default=Error())

    def run(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Every named tensor after one step, by the plain twins: the definition.

        Takes weight, gradient, lr, each name in `state`, and what statistics and numbers of the
        whole network there are; changes none of them.
        """
        state = self.state
        for each in self.lines:
            known = all(name in tensors for name in each.reads)
            if known and each.is_due(int(tensors[STEP]) if each.every > 1 else 0):
                tensors[each.result] = each.bound(each.op.plain)(*map(tensors.get, each.reads))
            elif each.result not in state:
                tensors.pop(each.result, None)
        return tensors

    def __str__(self) -> str:
        return "\n".join(map(str, self.lines))


def names_known(lines: Iterable[Line], slots: Slots, *given: str) -> dict[str, None]:
    """Names that have a value behind these lines; ValueError if a line reads one without."""
    known = dict.fromkeys((*INPUTS, *STATISTICS, *given, *(name for name, _ in slots)))
    for each in lines:
        for read in each.reads:
            if read not in known:
                raise ValueError(f"`{each}` reads {read!r}, {_unknown(read, known)}")
        known[each.result] = None
    return known


def _unknown(name: str, known: Iterable[str]) -> str:
    """Why a name has no value, as the end of a sentence."""
    (near,) = get_close_matches(name, known, n=1, cutoff=0.0)
    return (
        f"which no line before writes, no slot declares and no input is: the nearest is {near!r}; "
        f"state is declared in `slots`"
    )


def _share(each: Line, shape: Shape, itemsize: int) -> Cost:
    cost = each.op.cost(each.shape or shape, itemsize, **each.values())
    return Cost(cost.flops / each.every, cost.bytes / each.every)


def _error(each: Line, shape: Shape, itemsize: int) -> Error:
    error = each.op.error
    return error(each.shape or shape, itemsize, **each.values()) if error else Error()


def counting_steps(lines: tuple[Line, ...], slots: Slots) -> tuple[tuple[Line, ...], Slots]:
    """The lines and slots, with a counter of steps in front if any line depends on it."""
    if not any(STEP in each.reads or each.every > 1 for each in lines):
        return lines, slots
    return (line(STEP, update.count, STEP), *lines), ((STEP, COUNTER), *slots)
