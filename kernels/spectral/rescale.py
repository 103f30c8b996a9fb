"""Matrices of a size at which neither squares nor squares of squares leave float32's range."""

import torch
from torch import Tensor

SMALL, LARGE = 1e-4, 1e4


def moderate(x: Tensor) -> Tensor:
    """x: (..., m, n), each matrix over its largest entry; on a CPU x itself where it will do.

    There looking costs less than a division of all of x; elsewhere one would wait to know.
    """
    largest = torch.maximum(x.amax((-2, -1), keepdim=True), -x.amin((-2, -1), keepdim=True))
    if x.device.type == "cpu" and bool(((largest > SMALL) & (largest < LARGE)).all()):
        return x
    return x / torch.where(largest > 0, largest, 1.0)
