"""Potentials: what length a step has, and which numbers are refused."""

import pytest
import torch
from torch.testing import assert_close

from modula.duality import Clip, ShortStep, Within
from modula.norms import L1, L2, Max


def test_clip_is_sharp_below_rho_and_unit_above() -> None:
    gains = torch.tensor([0.5, 1.5], dtype=torch.float64)
    assert_close(Clip(5.0).length(gains), gains.sum())
    assert_close(Clip(1.0).length(gains), torch.tensor(1.0, dtype=torch.float64))
    assert Clip(1.0).shares(gains) is None


def test_over_l2_it_is_clipping_by_the_norm_of_all_gradients() -> None:
    gains = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert_close(Clip(9.0, over=L2()).length(gains), torch.tensor(5.0, dtype=torch.float64))
    assert_close(Clip(9.0, over=L2()).shares(gains), gains / 5)
    assert Clip(9.0, over=L1()).shares(gains).tolist() == [0.0, 1.0]  # type: ignore[union-attr]


def test_a_short_step_is_a_quarter_of_the_gap_never_negative_and_at_most_rho() -> None:
    for gaps, length in (([2.0, 2.0], 1.0), ([-1.0, 0.5], 0.0), ([90.0, 1.0], 3.0)):
        found = ShortStep(3.0).length(torch.tensor(gaps, dtype=torch.float64))
        assert float(found) == length


@pytest.mark.parametrize("make", [Clip, ShortStep, lambda x: Within(Max(), x)])
@pytest.mark.parametrize("number", [0.0, -1.0])
def test_a_length_that_is_not_positive_is_refused(make: object, number: float) -> None:
    with pytest.raises(ValueError, match="needs a positive r"):
        make(number)  # type: ignore[operator]


def test_clip_prints_without_what_is_default_as_saved_states_have_it() -> None:
    assert str(Clip(2.0)) == "Clip(rho=2.0)" and str(Clip(2.0, L2())) == "Clip(rho=2.0, over=L2())"
