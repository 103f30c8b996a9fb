"""Rescale matrices so that fourth powers of their entries fit in float32."""

import torch
from torch import Tensor

SMALL, LARGE = 1e-4, 1e4


def rescale(x: Tensor) -> Tensor:
    """x: (..., m, n), each matrix over its largest entry; on a CPU x itself where that will do.

    Squares, and squares of squares, of entries between SMALL and LARGE leave float32's range in no
    sum.  A zero matrix stays zero.
    """
    largest = torch.maximum(x.amax((-2, -1), keepdim=True), -x.amin((-2, -1), keepdim=True))
    # On a CPU looking costs less than a division of all of x; elsewhere one would wait to know.
    if x.device.type == "cpu" and bool(((largest > SMALL) & (largest < LARGE)).all()):
        return x
    return x / torch.where(largest > 0, largest, 1.0)
