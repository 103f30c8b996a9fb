"""Batches of weights with the same program, advanced together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from modula.duality.program.batch_line import BatchLine, Rows, places
from modula.duality.program.line import Line, Live, PerWeight, Role
from modula.duality.program.names import NOISE, STEP
from modula.duality.program.program import Program
from modula.duality.program.refresh import turns
from modula.duality.program.slot import COUNTER, Slot
from modula.duality.program.state import StateBuffer, state_dtype
from modula.duality.program.undo import Undo

ROUNDINGS = "roundings"  # counts the steps in which state was rounded at random
# On a CPU a group of elementwise programs this small stays in the cache from line to line.
CACHE_ENTRIES = 1 << 18
# Elsewhere it is bounded where lines work on copies of state or weights, which shall stay small.
COPIED_ENTRIES = 1 << 24

Statistics = Mapping[str, Tensor]


class Batch:
    """Weights that share a program, with their state.

    State is one contiguous buffer a name; each weight sees its part as a view, so nothing is
    stacked or copied between steps.  Programs that mix entries run on the stack (batch, *shape).

    A line runs on the weights that have a gradient, whose turn it is, and for which all that it
    reads is there; `_rows` remembers for which weights each name was computed in this step.

    before  a batch of the same weights under other programs, whose state goes on
    """

    def __init__(
        self,
        programs: Sequence[Program],
        weights: Sequence[Tensor],
        turns: Sequence[float] = (),
        kept: torch.dtype | None = None,
        before: Batch | None = None,
    ) -> None:
        self.program = programs[0].signature
        self.kept = kept
        self.weights = list(weights)
        self.slots = dict(self.program.slots) | ({} if kept is None else {ROUNDINGS: COUNTER})
        known: Mapping[str, StateBuffer] = {} if before is None else before.state
        self.state: dict[str, StateBuffer] = {
            name: known.get(name) or self._new_state(slot) for name, slot in self.slots.items()
        }
        self._fragile = [each for each in self.program.lines if each.op.can_fail]
        self.asks_mean_square = self.program.reads_mean_square
        self.statistics = self.program.statistics
        self._proposal = self._batch_lines([each.proposal for each in programs])
        self._update = self._batch_lines([each.update for each in programs])
        self._draw = self._batch_lines([each.draw for each in programs])
        self._all = tuple(range(len(self.weights)))
        self.turns = list(turns) or [0.0] * len(self.weights)
        self._env: dict[str, list[Tensor] | Tensor] = {}
        self._rows: dict[str, Rows] = {}
        self._chosen: Rows = ()

    def _new_state(self, slot: Slot) -> StateBuffer:
        if slot.counts:
            shapes: list[tuple[int, ...]] = [()] * len(self.weights)
            count = torch.float32
            return StateBuffer.filled(slot, shapes, count, torch.device("cpu"), count)
        first = self.weights[0]
        working = state_dtype(first)
        dtype = self.kept if self.kept is not None and slot.shape is None else working
        shapes = [tuple(w.shape if slot.shape is None else slot.shape) for w in self.weights]
        return StateBuffer.filled(slot, shapes, dtype, first.device, working)

    def _batch_lines(self, programs: Sequence[Sequence[Line]]) -> list[BatchLine]:
        """The lines that all these programs have, with what may differ between the weights."""
        found = []
        for same in zip(*programs, strict=True):
            first, op = same[0], same[0].op
            live = {k: v for k, v in first.options if isinstance(v, Live)}
            differing = [k for k, v in first.options if isinstance(v, PerWeight)]
            values = [each.values() for each in same] if differing else []
            # Counters stand on the CPU, also those of weights that do not.
            buffer = self.state.get(first.reads[0])
            tensors = self.weights if buffer is None else buffer.views
            call = first.bound(op.twin(tensors[0].is_cuda, op.foreach is not None))
            lists = {k: [each[k] for each in values] for k in differing}
            found.append(BatchLine(first, call, live, lists))
        return found

    def state_of(self, index: int) -> dict[str, Tensor]:
        """Views of one weight's state, by name."""
        return {name: buffer.views[index] for name, buffer in self.state.items()}

    def reset_(self, index: int, name: str) -> None:
        """Bring one name of a weight's state back to its first value."""
        self.slots[name].fill_(self.state[name].views[index])

    def propose(
        self,
        gradients: Sequence[Tensor | None],
        live: Mapping[str, float],
        statistics: Sequence[Statistics] = (),
        look: Callable[[], None] | None = None,
        undo: Undo | None = None,
    ) -> None:
        """Advance the state and find the directions of all weights that have a gradient.

        look  called when the directions are known and state is what they were found with, before
              metrics learn for the next step
        undo  is told what state was before it is written to
        """
        self._chosen = tuple(i for i, g in enumerate(gradients) if g is not None)
        dtype = state_dtype(self.weights[0])
        self._env = {"gradient": [g.to(dtype) for g in gradients if g is not None]}
        self._env["weight"] = [self.weights[i] for i in self._chosen]
        self._rows = {}
        if self._chosen and ROUNDINGS in self.state:
            self._tell(undo, ROUNDINGS, self._chosen)
            torch._foreach_add_(self.state[ROUNDINGS].listed(self._chosen), 1)
        for name in self.statistics:
            rows = tuple(i for i in self._chosen if statistics and name in statistics[i])
            self._rows[name] = rows
            self._env[name] = [statistics[i][name].to(self.weights[0].device, dtype) for i in rows]
        if not self._chosen:
            return
        decided = 0
        if look is not None:
            decided = self.program.decided
            self._run(self._proposal[:decided], live, undo)
            look()
        self._run(self._proposal[decided:], live, undo)

    def draw(self, live: Mapping[str, float]) -> list[Tensor]:
        """Noises by which the weights are to be moved before their gradients are taken."""
        self._chosen = self._all
        self._env = {"weight": self.weights}
        self._run(self._draw, live)
        noises: list[Tensor] = self._listed(NOISE)
        self._env, self._rows = {}, {}
        return [n.to(w.dtype) for n, w in zip(noises, self.weights, strict=True)]

    def expects(self) -> list[tuple[str, ...]]:
        """The statistics that the next step reads, for each weight."""
        lines = [(each, {*each.reads}.intersection(self.statistics)) for each in self.program.lines]
        return [
            tuple(
                name for each, names in lines if names and self._is_due(each, i) for name in names
            )
            for i in range(len(self.weights))
        ]

    def _is_due(self, each: Line, index: int) -> bool:
        """Whether the turn of a weight comes with the next step."""
        if each.every == 1:
            return True
        step = int(self.state[STEP].views[index]) + 1
        return each.is_due(step, int(self.turns[index] * each.every))

    def dual_norms(self) -> Tensor:
        """budget * ||query||_* of each weight that will step, in float64."""
        found = []
        for step in self._of_role(Role.STEP):
            (scales,) = step.per_weight.values()
            own = [scales[i] for i in self._chosen]
            names = (self.program.query, self.program.direction)
            pairs = zip(own, *map(self._listed, names), strict=True)
            found = [s * (q * d).sum(dtype=torch.float64) for s, q, d in pairs]
        return self._stacked_numbers(found)

    def frank_wolfe_gaps(self, live: Mapping[str, float]) -> Tensor:
        """<query, W - W'> of each weight for W' after step and decay at lr = 1, in float64."""
        return self.dual_norms() + self._gains_of_decay(live)

    def _gains_of_decay(self, live: Mapping[str, float]) -> Tensor:
        """<query, W - W'> for each weight W' after its decay alone, at lr = 1, in float64."""
        found, queries = [], self._listed(self.program.query) if self._chosen else []
        lr = torch.ones((), dtype=torch.float64, device=self.weights[0].device)
        for each in self._of_role(Role.DECAY):
            names = each.line.reads
            reads = [lr if n == "lr" else [x.double() for x in self._listed(n)] for n in names]
            copies = [weight.clone() for weight in reads[0]]  # which are overwritten
            decayed = each.call(copies, *reads[1:], **each.changed(live, self._chosen))
            pairs = zip(queries, reads[0], decayed, strict=True)
            found = [(q * (w - d)).sum() for q, w, d in pairs]
        return self._stacked_numbers(found)

    def _of_role(self, role: Role) -> list[BatchLine]:
        """The lines of this role, none where no weight will step."""
        return [each for each in self._update if each.line.role is role and self._chosen]

    def _stacked_numbers(self, found: list[Tensor]) -> Tensor:
        """One number for each weight that will step, zero where none was found."""
        if found:
            return torch.stack(found)
        device = self.weights[0].device
        return torch.zeros(len(self._chosen), dtype=torch.float64, device=device)

    def share_out(self, shares: Tensor) -> None:
        """Multiply each direction by its weight's share.

        A direction that is state, an average, is kept whole: the share is read in its place.
        """
        if self._chosen:
            name = self.program.direction
            pairs = zip(self._listed(name), shares, strict=True)
            self._env[name] = [share.to(d.dtype) * d for d, share in pairs]

    def squares(self) -> Tensor:
        """(sum, number) of the entries of second moments, in float64, in one row."""
        name = self.program.second_moment
        asked = self._listed(name) if name and self._chosen and self.asks_mean_square else []
        total = torch.zeros((), dtype=torch.float64, device=self.weights[0].device)
        total = sum((each.sum(dtype=torch.float64) for each in asked), total)
        number = sum(each.numel() for each in asked)
        return torch.stack([total, torch.full_like(total, number)])[None]

    def proposed(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(index, query, direction) of each weight that will step."""
        if not self._chosen:
            return
        rows = self._rows.get(self.program.direction, self._chosen)
        queries = self._listed(self.program.query, rows)
        yield from zip(rows, queries, self._listed(self.program.direction, rows), strict=True)

    def held(self, place: int, names: Sequence[str]) -> list[Tensor]:
        """Tensors of these names for one weight."""
        return [self._listed(name, (place,))[0] for name in names]

    def update(
        self,
        lr: Tensor,
        live: Mapping[str, float],
        numbers: Mapping[str, Tensor] | None = None,
        undo: Undo | None = None,
    ) -> None:
        """Move the weights along the directions found by `propose`, and drop those.

        Half precision is rounded once, when all is done: a weight that a step has rounded already
        would be rounded back to where it was by a retraction that moves it by less.

        numbers  of the whole network, 0-d tensors by the names that lines read
        undo     is told what weights and state were before they are written to
        """
        self._env |= {**(numbers or {}), "lr": lr}
        if self._chosen:
            weights = self._listed("weight")
            working = state_dtype(weights[0])
            self._env["weight"] = [weight.to(working) for weight in weights]
            self._run(self._update, live, undo)
            if weights[0].dtype != working:
                torch._foreach_copy_(weights, self._listed("weight"))
        self._env, self._rows = {}, {}

    def forget(self) -> None:
        """Drop what `propose` found, where a step is given up."""
        self._env, self._rows, self._chosen = {}, {}, ()

    @property
    def can_fail(self) -> bool:
        """Whether a line of the next step may raise an error."""
        return any(self._is_due(each, i) for each in self._fragile for i in self._all)

    def _run(
        self, lines: Sequence[BatchLine], live: Mapping[str, float], undo: Undo | None = None
    ) -> None:
        for batch_line in lines:
            each, call = batch_line.line, batch_line.call
            rows = self._rows_of(each)
            if not rows:
                if each.result not in self.state:
                    self._env[each.result], self._rows[each.result] = [], rows
                continue
            self._tell(undo, each.result, rows)
            options = batch_line.changed(live, rows)
            if each.op.foreach is not None:
                lists = [self._listed(name, rows) for name in each.reads]
                self._keep_listed(each, call(*lists, **options), rows)
            else:
                stacks = [self._stacked(name, rows) for name in each.reads]
                self._keep(each.result, call(*stacks, **options), rows)

    def _tell(self, undo: Undo | None, name: str, rows: Rows) -> None:
        """Before a name is written to."""
        if undo and undo.is_open and (name in self.state or name == "weight"):
            own = self.weights if name == "weight" else self.state[name].views
            undo.keep([own[i] for i in rows])

    def _rows_of(self, each: Line) -> Rows:
        """The weights that a line runs on."""
        rows = self._chosen
        for name in each.reads:
            have = self._rows.get(name)
            rows = rows if have is None else tuple(i for i in rows if i in have)
        if each.every == 1:
            return rows
        steps = self.state[STEP].views
        offsets = [int(turn * each.every) for turn in self.turns]
        return tuple(i for i in rows if each.is_due(int(steps[i]), offsets[i]))

    def _keep(self, name: str, result: Tensor, rows: Rows) -> None:
        """Store a stacked result; weights and state are written in place."""
        if name == "weight":
            torch._foreach_copy_(self._listed("weight", rows), list(result.unbind(0)))
        elif name in self.state:
            buffer = self.state[name]
            if buffer.is_worked_on and buffer.whole is not None and rows == self._all:
                buffer.whole.copy_(result)
            else:
                buffer.write_(rows, result, self._seed(name, rows))
        else:
            self._env[name], self._rows[name] = result, rows

    def _keep_listed(self, each: Line, results: list[Tensor], rows: Rows) -> None:
        if each.result in self.state:
            if not (each.op.writes_first and self.state[each.result].is_worked_on):
                self.state[each.result].write_(rows, results, self._seed(each.result, rows))
        elif not (each.op.writes_first and each.result == "weight"):  # else it is written already
            self._env[each.result], self._rows[each.result] = results, rows

    def _seed(self, name: str, rows: Rows) -> int:
        """Of this step's rounding: the same in all processes, and in a run that was resumed."""
        if ROUNDINGS not in self.state:
            return 0
        return crc32(f"{name} {int(self.state[ROUNDINGS].views[rows[0]])}".encode())

    def _listed(self, name: str, rows: Rows | None = None) -> Any:
        if name not in self._env:
            buffer, rows = self.state[name], self._chosen if rows is None else rows
            is_whole = buffer.is_worked_on and rows == self._all
            return buffer.views if is_whole else buffer.listed(rows)
        value = self._env[name]
        if isinstance(value, Tensor) and not value.ndim:
            return value  # lr
        parts = list(value.unbind(0)) if isinstance(value, Tensor) else value
        return parts if rows is None else self._part(name, parts, rows)

    def _stacked(self, name: str, rows: Rows) -> Tensor:
        if name not in self._env:
            buffer = self.state[name]
            if buffer.is_worked_on and buffer.whole is not None and rows == self._all:
                return buffer.whole
            return buffer.stacked(rows)
        value = self._env[name]
        if isinstance(value, Tensor):
            have = self._rows.get(name, self._chosen)
            return value if have == rows or not value.ndim else value[places(rows, have)]
        parts = self._part(name, value, rows)
        return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)

    def _part(self, name: str, parts: list[Tensor], rows: Rows) -> list[Tensor]:
        have = self._rows.get(name, self._chosen)
        return parts if have == rows else [parts[i] for i in places(rows, have)]


def batches(
    programs: Sequence[Program],
    weights: Sequence[Tensor],
    kept: torch.dtype | None = None,
    before: Sequence[Batch] = (),
) -> list[tuple[Batch, list[int]]]:
    """Group weights into batches; each comes with the positions of its weights.

    kept    dtype in which weight-shaped state outlives a step; None for the one computed in
    before  batches whose state goes on, where the same weights are together again
    """
    groups: dict[Any, list[int]] = {}
    sizes: dict[Any, int] = {}
    for i, (program, weight) in enumerate(zip(programs, weights, strict=True)):
        key = _group(program, weight)
        is_copied = kept is not None or weight.dtype != state_dtype(weight)
        elsewhere = COPIED_ENTRIES if is_copied else None
        most = CACHE_ENTRIES if weight.device.type == "cpu" else elsewhere
        if program.is_elementwise and most is not None:
            sizes[key] = sizes.get(key, 0) + weight.numel()
            key = (*key, sizes[key] // most)
        groups.setdefault(key, []).append(i)
    shares = turns([any(each.every > 1 for each in program.lines) for program in programs])
    known = {tuple(map(id, each.weights)): each for each in before}
    found = []
    for g in groups.values():
        own, tensors = [programs[i] for i in g], [weights[i] for i in g]
        same = known.get(tuple(map(id, tensors)))
        found.append((Batch(own, tensors, [shares[i] for i in g], kept, same), g))
    return found


def _group(program: Program, weight: Tensor) -> tuple[Any, ...]:
    shape = None if program.is_elementwise else tuple(weight.shape)
    return (program.signature, shape, weight.dtype, weight.device)
