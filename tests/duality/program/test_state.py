"""State buffers: one contiguous buffer a name, shown as a view a weight."""

import pytest
import torch

from modula.duality.program.slot import Slot
from modula.duality.program.state import StateBuffer

CPU = torch.device("cpu")


def filled(shapes: list[tuple[int, ...]], kept: torch.dtype = torch.float32) -> StateBuffer:
    return StateBuffer.filled(Slot(fill=2.0), shapes, kept, CPU, torch.float32)


def test_views_hold_the_first_value_and_share_one_buffer() -> None:
    buffer = filled([(2, 3), (4,)])
    assert [tuple(view.shape) for view in buffer.views] == [(2, 3), (4,)]
    assert all(bool((view == 2).all()) for view in buffer.views)
    assert len({view.untyped_storage().data_ptr() for view in buffer.views}) == 1
    assert buffer.whole is None


def test_equal_shapes_are_stacked_without_a_copy_and_parts_with_one() -> None:
    buffer = filled([(2, 3)] * 3)
    buffer.views[1].fill_(5.0)
    assert buffer.whole is not None
    assert buffer.stacked((0, 1, 2)).data_ptr() == buffer.whole.data_ptr()
    torch.testing.assert_close(buffer.stacked((1, 2)), torch.stack(buffer.views[1:]))


def test_what_is_written_stands_in_the_views_of_those_rows_alone() -> None:
    buffer = filled([(2,)] * 3)
    buffer.write_((0, 2), torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
    torch.testing.assert_close(
        torch.stack(buffer.views), torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 2)
    )


def test_half_precision_is_computed_in_full_and_rounded_at_random_by_the_seed() -> None:
    buffer = filled([(1000,)] * 2, torch.bfloat16)
    assert not buffer.is_worked_on and buffer.stacked((0, 1)).dtype == torch.float32
    value = torch.full((2, 1000), 1.0 + 2.0**-9)  # half way between two neighbours
    buffer.write_((0, 1), value, seed=3)
    first = torch.stack(buffer.views).float()
    assert first.mean() == pytest.approx(1.0 + 2.0**-9, abs=3e-4)
    buffer.write_((0, 1), value, seed=3)
    torch.testing.assert_close(torch.stack(buffer.views).float(), first, rtol=0, atol=0)
