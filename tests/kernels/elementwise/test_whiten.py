"""Whitening: Adam's quotient, both twins."""

import pytest
import torch

from modula.kernels.elementwise.whiten import whiten
from twins import assert_twins_agree, tensors


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("floor", [0.0, 1e-8, 1e-3])
def test_whiten_is_adams_quotient(floor: float, power: float) -> None:
    means, squares = tensors(2, 0), [x.square() for x in tensors(2, 1)]
    squares[0][0], means[0][0] = 0.0, 0.0
    options = {"power": power, "floor": floor}
    pairs = list(zip(means, squares, strict=True))
    expected = [(m / (v**power + floor)).nan_to_num(0.0) for m, v in pairs]
    torch.testing.assert_close([whiten(m, v, **options) for m, v in pairs], expected)
    assert_twins_agree(whiten, [means, squares], expected, **options)


@pytest.mark.parametrize("floor", [0.0, 1e-50])
@pytest.mark.parametrize("mean", [1e-25, 1.0, 1e4])
def test_a_denominator_that_rounds_to_zero_makes_zero(mean: float, floor: float) -> None:
    means, squares = [torch.full((3,), mean)], [torch.tensor([0.0, 1e-60, 4.0])]
    expected = [torch.tensor([0.0, 0.0, mean / 2])]
    assert_twins_agree(whiten, [means, squares], expected, power=0.5, floor=floor)
