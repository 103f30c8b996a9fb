"""Gauges bring factors to one size and keep their product."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments import gauge
from modula.kernels.moments.second_moment import mean_eigenvalue
from modula.kernels.moments.structure import DIAGONAL, FULL, Pattern


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_gauge_makes_mean_eigenvalues_equal_and_keeps_their_product() -> None:
    a, b = draw(2, 4, 4), draw(2, 3, seed=1).exp()
    a = a @ a.mT
    gauges = (
        gauge.gauge(a, b, kinds=(FULL, DIAGONAL)),
        gauge.gauge(b, a, kinds=(DIAGONAL, FULL)),
    )
    assert_close(gauges[0] * gauges[1], torch.ones(2, dtype=a.dtype))
    balanced = [gauge.regauge(x, g, power=-1.0) for x, g in zip((a, b), gauges, strict=True)]
    sizes = [mean_eigenvalue(x, n) for x, n in zip(balanced, (2, 1), strict=True)]
    assert_close(sizes[0], sizes[1])


@pytest.mark.parametrize("kind", [FULL, DIAGONAL], ids=str)
def test_the_gauge_of_factors_of_the_inverse(kind: Pattern) -> None:
    tail = (3, 3) if kind.ndim == 2 else (3,)
    root, other = draw(2, *tail), 5 * draw(2, *tail, seed=1)
    own = gauge.factor_gauge(root, other, kinds=(kind, kind))
    back = gauge.factor_gauge(other, root, kinds=(kind, kind))
    assert_close(own * back, torch.ones(2, dtype=torch.float64))
    sizes = [kind.mean_square(x) for x in (root, other)]
    assert_close(sizes[0] / own, sizes[1] / back)


@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan")])
def test_sizes_that_are_none_have_no_excess(bad: float) -> None:
    assert gauge.excess([torch.tensor(bad), torch.tensor(3.0)]) == 1
