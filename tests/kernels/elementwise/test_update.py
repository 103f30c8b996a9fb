"""The ops of an update: both twins, and what a step is."""

import pytest
from torch.testing import assert_close

from modula.kernels.elementwise import update
from modula.kernels.op import Locality, Op
from twins import LR, assert_twins_agree, tensors

CASES: dict[str, tuple[Op, int]] = {
    "count": (update.count, 1),
    "sign": (update.sign, 1),
    "copy": (update.copy, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_twins_agree(name: str) -> None:
    op, count = CASES[name]
    reads = [tensors(5, seed) for seed in range(count)]
    expected = [op.plain(*row) for row in zip(*reads, strict=True)]
    assert_twins_agree(op, reads, expected)


def test_a_step_takes_one_scale_a_weight() -> None:
    weights, directions, scales = tensors(3, 0), tensors(3, 1), [1.0, 0.5, 0.25]
    stepped = [w - 0.3 * s * d for w, d, s in zip(weights, directions, scales, strict=True)]
    plain = update.step(weights[1], directions[1], LR, scale=0.5)
    assert_close(plain, stepped[1])
    own = [w.clone() for w in weights]
    assert_close(update.step(own, directions, LR, scale=scales), stepped)
    assert_close(own, stepped)


def test_a_copy_is_no_view() -> None:
    x = tensors(1, 0)[0]
    assert update.copy(x).data_ptr() != x.data_ptr()
    assert update.step.locality is Locality.ELEMENTWISE
