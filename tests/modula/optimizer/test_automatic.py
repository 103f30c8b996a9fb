"""The step length of automatic gradient descent."""

from math import log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modula.optimizer.automatic import Automatic

PUBLISHED = {0.0: 0.0, 0.01: 0.00985325, 0.5: 0.31190536, 1.0: 0.48121183}
LOGARITHMS = {2.0: log(2), 6.0: log(3), 12.0: log(4)}


@pytest.mark.parametrize(("dual_norm", "eta"), [*PUBLISHED.items(), *LOGARITHMS.items()])
def test_published_lengths(dual_norm: float, eta: float) -> None:
    found = Automatic().length(torch.tensor(dual_norm, dtype=torch.float64))
    assert float(found) == pytest.approx(eta, abs=1e-8)


@given(dual_norm=st.floats(1e-12, 1e12))
def test_the_length_minimises_the_bound(dual_norm: float) -> None:
    eta = Automatic().length(torch.tensor(dual_norm, dtype=torch.float64)).item()
    slope = (torch.expm1(torch.tensor(eta, dtype=torch.float64)) * torch.e**eta).item()
    assert slope == pytest.approx(dual_norm, rel=1e-9)
    assert eta == pytest.approx(log((1 + sqrt(1 + 4 * dual_norm)) / 2), rel=1e-3, abs=1e-9)


def test_gain_multiplies() -> None:
    one = torch.tensor(1.0)
    torch.testing.assert_close(Automatic(10.0).length(one), 10 * Automatic().length(one))
