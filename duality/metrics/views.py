"""Ops from a weight to its blocks, and back."""

from functools import cache

from torch import Tensor

from modula.kernels.op import Op, elementwise_cost
from modula.norms.blocks import BlockView


@cache
def view_ops(view: BlockView, shape: tuple[int, ...]) -> tuple[Op, Op]:
    """From weights of this shape to their blocks, and back."""

    def from_blocks(x: Tensor) -> Tensor:
        return view.from_blocks(x, shape)

    passes = elementwise_cost(0, 2)
    return (
        Op(f"view[{view.pattern}]", view.to_blocks, passes, can_fail=False),
        Op("view_back", from_blocks, passes, can_fail=False),
    )
