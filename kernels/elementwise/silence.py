"""Elementwise op that leaves out what has no gradient in a step."""

from torch import Tensor

from modula.kernels.op import elementwise

Tensors = list[Tensor]


def active_plain(query: Tensor, gradient: Tensor) -> Tensor:
    """query where the gradient is not zero, entry by entry; 0 elsewhere."""
    return query.where(gradient != 0, 0.0)


def active_foreach(queries: Tensors, gradients: Tensors) -> Tensors:
    """active_plain over lists."""
    return list(map(active_plain, queries, gradients))


active = elementwise("active[entries]", active_plain, active_foreach, flops=1, passes=3)
