"""Euclidean space: nothing is ever changed, only added."""

import torch
from torch.testing import assert_close

from modula.manifolds.euclidean import Euclidean


def test_every_shape_is_fine_and_stays_as_it_is() -> None:
    for shape in [(), (3,), (2, 0), (2, 3, 4)]:
        x = torch.ones(shape)
        Euclidean().check_shape(shape)
        assert torch.equal(Euclidean().project(x), x)
        assert torch.equal(Euclidean().to_tangent(x, 2 * x), 2 * x)
        assert_close(Euclidean().retract(x, 2 * x), 3 * x)
        assert_close(Euclidean().residual(x), torch.zeros(()))


def test_samples_are_standard_normal() -> None:
    torch.manual_seed(0)
    x = Euclidean().sample((200, 200), dtype=torch.float64)
    assert_close(x.mean(), torch.zeros((), dtype=torch.float64), atol=0.03, rtol=0)
    assert_close(x.var(), torch.ones((), dtype=torch.float64), atol=0.03, rtol=0)
