"""Programs that move a weight by rotating it: any optimizer, run on the rotations' coordinates."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from modula.duality.program.line import Line, line
from modula.duality.program.program import Program, counting_steps
from modula.duality.program.slot import Slot
from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.manifolds.rotations import Rotations

# What the program of the coordinates calls its things, and what they are to the weight.
NAMES = {"weight": "chart", "gradient": "chart_gradient", "step": "since"}


def chart_shape(rotations: Rotations, shape: Shape) -> tuple[int, int, int]:
    """Of the skew coordinates: (blocks, side, side)."""
    side = rotations.side(tuple(shape))
    return sum(rotations.counts(tuple(shape))), side, side


def rotating(inner: Program, rotations: Rotations, shape: Shape) -> Program:
    """The program of a weight W = R(X) W0 P(X)^T whose coordinates X follow the program `inner`.

    Every so many steps the rotation is merged: W0 <- W, X <- 0, what `inner` remembers is
    forgotten, since it was about other coordinates, and the permutations are drawn afresh.
    After the first step W is made from W0 and X alone: what is written into it from outside is
    undone, and its rounding in half precision does not add up.

    Raises ValueError if `inner` asks for more than the gradient: only that is known in coordinates.
    """
    if inner.statistics or inner.draw:
        asked = ", ".join(inner.statistics) or "a draw"
        raise ValueError(
            f"rotations follow gradients alone, and this metric reads {asked}: choose one of "
            f"gradients, such as Diagonal()"
        )
    coordinates = chart_shape(rotations, shape)
    kept = (("weight", Slot()), *inner.slots)
    slots = {NAMES.get(name, name): slot.sized(coordinates) for name, slot in kept}
    order = Slot((coordinates[0] * coordinates[1],))
    merged, shuffle, pull_back, turn = rotation_ops(rotations, tuple(shape))
    merge = (
        line("base", merged, "base", "order", "chart", "weight", "step"),
        line("order", shuffle, "order", "step"),
        *(line(name, reset_op(slot), name) for name, slot in slots.items()),
    )
    lines, kept = counting_steps(
        (
            *(replace(each, every=rotations.every, early=False) for each in merge),
            line("chart_gradient", pull_back, "gradient", "base", "order", "chart"),
            *_inside(inner.proposal, coordinates),
        ),
        (*slots.items(), ("order", order), ("base", Slot(tuple(shape)))),
    )
    return Program(
        proposal=lines,
        update=(
            *_inside(inner.update, coordinates),
            line("weight", turn, "base", "order", "chart"),
        ),
        direction=NAMES.get(inner.direction, inner.direction),
        query=NAMES.get(inner.query, inner.query),
        slots=kept,
    )


def _inside(lines: tuple[Line, ...], coordinates: tuple[int, ...]) -> tuple[Line, ...]:
    return tuple(replace(each.renamed(NAMES), shape=each.shape or coordinates) for each in lines)


@cache
def rotation_ops(rotations: Rotations, shape: tuple[int, ...]) -> tuple[Op, Op, Op, Op]:
    """Merging, drawing permutations, the gradient in the coordinates, and the rotated weight."""

    def merge(base: Tensor, order: Tensor, x: Tensor, weight: Tensor, step: Tensor) -> Tensor:
        """The weight: itself at first, later made again, as half precision has rounded it."""
        # `step` is counted on the host, so nobody waits; and these lines run every N steps only.
        return weight.to(base) if int(step) == 1 else rotations.turn(base, order, x)

    def merge_foreach(*lists: list[Tensor]) -> list[Tensor]:
        return [merge(*each) for each in zip(*lists, strict=True)]

    def shuffle(order: Tensor, step: Tensor) -> Tensor:
        """New permutations, the same for the same step of any run."""
        return rotations.shuffle(shape, int(step)).to(order)

    def shuffle_foreach(orders: list[Tensor], steps: list[Tensor]) -> list[Tensor]:
        return [shuffle(order, step) for order, step in zip(orders, steps, strict=True)]

    def cost(of: Shape, itemsize: int = 4) -> Cost:
        blocks, side, _ = chart_shape(rotations, of)
        entries = float(of[-2] * of[-1])
        return Cost(4 * side * entries + 8.0 * blocks * side**3, 8 * entries * itemsize)

    name = f"block={rotations.block}, {rotations.chart}"
    drawn = Op("shuffle", shuffle, elementwise_cost(0, 1), foreach=shuffle_foreach)
    turn = Op(f"turn[{name}]", rotations.turn, cost)
    merged = Op("merge", merge, cost, foreach=merge_foreach)
    return merged, drawn, Op("pull_back", rotations.pull_back, cost), turn


@cache
def reset_op(slot: Slot) -> Op:
    """The first value of a state, as an op."""

    def reset(x: Tensor) -> Tensor:
        first = torch.empty_like(x)
        slot.fill_(first)
        return first

    def reset_foreach(xs: list[Tensor]) -> list[Tensor]:
        return [reset(x) for x in xs]

    return Op("reset", reset, elementwise_cost(0, 1), foreach=reset_foreach)
