"""What tensors held before a step wrote to them, so that the step can be undone."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


class Undo:
    """Copies of tensors, each from before it was first written to.

    is_open  whether it still copies; once it does not, nothing can be undone any more
    """

    def __init__(self) -> None:
        self.is_open = True
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # by id: the tensor and its copy

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Copy those that are about to be written to, unless they were before."""
        for x in tensors:
            if id(x) not in self._before:
                self._before[id(x)] = (x, x.detach().clone())

    def undo_(self) -> None:
        """Bring all of them back to what they were."""
        for x, before in self._before.values():
            x.copy_(before)

    def give_up(self) -> None:
        """Drop the copies, where nothing can fail any more."""
        self.is_open, self._before = False, {}
