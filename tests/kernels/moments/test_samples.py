"""What counts as a sample: finite and not zero."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modula.kernels.moments import layer, samples
from modula.kernels.op import Op

NAN, INF = float("nan"), float("inf")
COUNT = torch.tensor([3.0, 3.0, 3.0, 3.0])


def matrices(*first: float) -> Tensor:
    """2 x 2 matrices with this entry first, and ones."""
    x = torch.ones(len(first), 2, 2)
    x[:, 0, 0] = torch.tensor(first)
    return x


def test_tally_counts_what_is_not_zero() -> None:
    x = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    assert samples.tally(COUNT[:2], x).tolist() == [3, 4]
    assert samples.fresh(x, COUNT[:2]).tolist() == [0, 1]


def test_tally_of_moments_counts_those_that_are_one() -> None:
    x = matrices(1.0, -1.0, NAN, 0.0)
    assert samples.tally_moment(COUNT, x).tolist() == [4, 3, 3, 4]
    assert samples.tally_moment(COUNT, 0 * matrices(1, 1, 1, 1)).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("op", "usable", "bad"),
    [
        (samples.rejected, samples.usable, (NAN, INF, 1e30)),
        (samples.rejected_moments, samples.usable_moment, (NAN, INF, -1.0)),
    ],
    ids=["gradients", "moments"],
)
def test_what_is_rejected_becomes_zero_and_is_counted(
    op: Op, usable: Callable[..., Tensor], bad: tuple[float, ...]
) -> None:
    x = matrices(1.0, *bad)
    assert op(COUNT, x).tolist() == [3, 4, 4, 4]
    left = usable(x, COUNT)
    assert torch.equal(left[0], x[0]) and not left[1:].any()


def test_a_moment_is_rejected_with_its_companion() -> None:
    good, other = matrices(1.0, 1.0), matrices(1.0, NAN)
    assert samples.rejected_moments(COUNT[:2], good, other).tolist() == [3, 4]
    assert not samples.usable_moment(good, COUNT[:2], other)[1].any()


def test_blocks_count_as_one_moment() -> None:
    blocks = torch.stack([matrices(1.0, 1.0), matrices(1.0, -1.0)])
    assert samples.rejected_moments(COUNT[:2], blocks).tolist() == [3, 4]


def test_rows_are_rejected_where_either_has_an_entry_that_is_not_finite() -> None:
    good, bad, count = torch.ones(3, 2), torch.full((3, 4), INF), torch.tensor(1.0)
    assert layer.rejected_rows(count, good, good) == 1
    assert layer.rejected_rows(count, good, bad) == 2
