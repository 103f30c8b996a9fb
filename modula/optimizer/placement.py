"""Where weights stand, in which dtype and shape: what their batches were built for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modula.optimizer.param_groups import DeclaredWeight


class Placement:
    """Shape, dtype and device of weights when batches were built for them.

    `model.double()` and `model.to(device)` change a weight in place, and its batch must follow.
    """

    def __init__(self, weights: Sequence[DeclaredWeight]) -> None:
        self._weights = [each.weight for each in weights]
        self._names = [each.name for each in weights]
        self._shapes = [weight.shape for weight in self._weights]
        self._dtypes = [weight.dtype for weight in self._weights]
        self._devices: list[torch.device | None] = [weight.device for weight in self._weights]

    def has_changed(self) -> bool:
        """Whether batches have to be built again; waits for no device.

        Raises ValueError, by name, for a weight that batches cannot be built for.
        """
        weights = self._weights
        if [weight.shape for weight in weights] != self._shapes:
            self._refuse_shape()
        same = [weight.dtype for weight in weights] == self._dtypes
        same = same and [weight.device for weight in weights] == self._devices
        if not same:
            self._check()
        return not same

    def _refuse_shape(self) -> None:
        for name, weight, shape in zip(self._names, self._weights, self._shapes, strict=True):
            if weight.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(weight.shape)} now, and its state was kept for "
                    f"{tuple(shape)}: say which rows it took over with optimizer.replace("
                    f"{name!r}, weight, rows=...)"
                )

    def _check(self) -> None:
        for name, weight, dtype in zip(self._names, self._weights, self._dtypes, strict=True):
            if not weight.is_floating_point():
                raise ValueError(
                    f"{name} is {str(weight.dtype).removeprefix('torch.')} now, where norms "
                    f"measure real numbers: bring the model back with model.to({dtype})"
                )

    @property
    def is_behind(self) -> bool:
        """Whether a weight stands here that no batch was built for."""
        return None in self._devices

    def shape_of(self, weight: Tensor) -> tuple[int, ...]:
        """The shape that a weight has, or had, when its state was made."""
        return tuple(self._shapes[self._index(weight)])

    def replace_(self, old: Tensor, new: Tensor) -> None:
        """Put another weight into this place, for which a batch is to be built."""
        index = self._index(old)
        self._weights[index], self._shapes[index] = new, new.shape
        self._dtypes[index], self._devices[index] = new.dtype, None

    def _index(self, weight: Tensor) -> int:
        return next(i for i, each in enumerate(self._weights) if each is weight)
