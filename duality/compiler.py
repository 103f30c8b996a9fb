"""Running programs: weights with the same program and shape are advanced as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modula.duality.program import COUNTERS, Line, Live, Program

# On a CPU a group of elementwise programs this small stays in the cache from line to line.
CACHE_ENTRIES = 1 << 18


class Batch:
    """Weights that share a program, advanced together.

    State is one contiguous buffer a name; each weight sees its part as a view, so nothing is
    stacked or copied between steps.  Programs that mix entries run on the stack (batch, *shape).
    """

    def __init__(self, programs: Sequence[Program], weights: Sequence[Tensor]) -> None:
        self.program = programs[0].signature
        self.weights = list(weights)
        self.scales = [_scales(program) for program in programs]
        self.state = {name: self._new_state(name) for name in self.program.state}
        self._env: dict[str, list[Tensor] | Tensor] = {}
        self._chosen: list[int] = []

    def _new_state(self, name: str) -> list[Tensor]:
        if name in COUNTERS:
            return [torch.zeros(()) for _ in self.weights]
        first = self.weights[0]
        buffer = torch.zeros(
            sum(w.numel() for w in self.weights), dtype=state_dtype(first), device=first.device
        )
        parts = buffer.split([w.numel() for w in self.weights])
        return [part.view(w.shape) for part, w in zip(parts, self.weights, strict=True)]

    def state_of(self, index: int) -> dict[str, Tensor]:
        """Views of one weight's state, by name."""
        return {name: views[index] for name, views in self.state.items()}

    def propose(self, gradients: Sequence[Tensor | None], live: Mapping[str, float]) -> None:
        """Advance the state and find the directions of all weights that have a gradient."""
        self._chosen = [i for i, g in enumerate(gradients) if g is not None]
        chosen = [g for g in gradients if g is not None]
        dtype = state_dtype(self.weights[0])
        self._env = {"gradient": [g if g.dtype is dtype else g.to(dtype) for g in chosen]}
        self._env["weight"] = [self.weights[i] for i in self._chosen]
        for name, views in self.state.items():
            self._env[name] = [views[i] for i in self._chosen]
        if self._chosen:
            self._run(self.program.proposal, 0, live)

    def dual_norm(self) -> Tensor:
        """Sum over the weights of budget * ||query||_*, in float64: the batch's part of N*."""
        if not self._chosen:
            return torch.zeros((), dtype=torch.float64, device=self.weights[0].device)
        queries = self._listed(self.program.query)
        directions = self._listed(self.program.direction)
        inner = [(q * d).sum(dtype=torch.float64) for q, d in zip(queries, directions, strict=True)]
        scales = [self._scale_of_step(i) for i in self._chosen]
        return torch.stack([s * x for s, x in zip(scales, inner, strict=True)]).sum()

    def update(self, lr: Tensor, live: Mapping[str, float]) -> None:
        """Move the weights along the directions found by `propose`, and let go of those."""
        self._env["lr"] = lr
        if self._chosen:
            self._run(self.program.update, len(self.program.proposal), live)
        self._env = {}

    def _scale_of_step(self, index: int) -> float:
        names = [each.op.name for each in self.program.lines]
        return self.scales[index][names.index("step")]

    def _run(self, lines: Sequence[Line], first: int, live: Mapping[str, float]) -> None:
        for position, each in enumerate(lines, first):
            options = {name: _value(value, live) for name, value in each.options}
            if position in self.scales[0]:
                options["scale"] = [self.scales[i][position] for i in self._chosen]
            if each.op.foreach is None:
                result = each.op(*(self._stacked(name) for name in each.reads), **options)
                self._keep(each.result, result)
            else:
                reads = (self._listed(name) for name in each.reads)
                self._env[each.result] = each.op.foreach(*reads, **options)

    def _keep(self, name: str, result: Tensor) -> None:
        """Store a stacked result; weights are written in place."""
        if name == "weight":
            torch._foreach_copy_(self._listed("weight"), list(result.unbind(0)))
        else:
            self._env[name] = result

    def _listed(self, name: str) -> Any:
        value = self._env[name]
        return list(value.unbind(0)) if isinstance(value, Tensor) and value.ndim else value

    def _stacked(self, name: str) -> Tensor:
        value = self._env[name]
        if isinstance(value, Tensor):
            return value
        whole = len(value) == len(self.weights) and name in self.state
        if len(value) == 1:
            return value[0].unsqueeze(0)
        return _contiguous_stack(value) if whole else torch.stack(value)


def _contiguous_stack(views: Sequence[Tensor]) -> Tensor:
    """The buffer that neighbouring views of one shape were cut from, as (batch, *shape)."""
    first = views[0]
    return first.as_strided((len(views), *first.shape), (first.numel(), *first.stride()))


def _scales(program: Program) -> dict[int, float]:
    """The option `scale` of each line that has one, by the line's position."""
    found = ((i, each.values().get("scale")) for i, each in enumerate(program.lines))
    return {i: scale for i, scale in found if scale is not None}


def _value(value: Any, live: Mapping[str, float]) -> Any:
    return live.get(value.name, value.value) if isinstance(value, Live) else value


def state_dtype(weight: Tensor) -> torch.dtype:
    """float32 for half-precision weights: an average with beta near 1 stands still in bfloat16."""
    return weight.dtype if weight.dtype.itemsize >= 4 else torch.float32


def batches(
    programs: Sequence[Program], weights: Sequence[Tensor]
) -> list[tuple[Batch, list[int]]]:
    """Group weights into batches; each comes with the positions of its weights."""
    groups: dict[Any, list[int]] = {}
    sizes: dict[Any, int] = {}
    for i, (program, weight) in enumerate(zip(programs, weights, strict=True)):
        key = _group(program, weight)
        if program.is_elementwise and weight.device.type == "cpu":
            sizes[key] = sizes.get(key, 0) + weight.numel()
            key = (*key, sizes[key] // CACHE_ENTRIES)
        groups.setdefault(key, []).append(i)
    return [
        (Batch([programs[i] for i in group], [weights[i] for i in group]), group)
        for group in groups.values()
    ]


def _group(program: Program, weight: Tensor) -> tuple[Any, ...]:
    shape = None if program.is_elementwise else tuple(weight.shape)
    return (program.signature, shape, weight.dtype, weight.device)
