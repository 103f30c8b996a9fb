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
