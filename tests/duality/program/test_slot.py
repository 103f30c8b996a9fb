"""Slots: the first value of each name of a weight's state."""

import torch

from modula.duality import Slot
from modula.duality.program.slot import COUNTER


def test_the_first_value_is_as_declared_for_a_weight_and_for_a_batch() -> None:
    weight = torch.ones(2, 3, 3)
    torch.testing.assert_close(Slot(fill=2.0).first(weight), torch.full((2, 3, 3), 2.0))
    eye = Slot((2, 3, 3), 0.0, diagonal=4.0).first(weight)
    torch.testing.assert_close(eye, 4 * torch.eye(3).expand(2, 3, 3))


def test_the_shape_of_a_weight_is_taken_where_none_is_declared() -> None:
    assert Slot(fill=1.0).sized((5, 2)) == Slot((5, 2), 1.0)
    assert Slot((3,)).sized((5, 2)) == Slot((3,))
    assert COUNTER.sized((5, 2)) == COUNTER
