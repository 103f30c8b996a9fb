"""In single precision, too, a direction does not depend on how large gradients are."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics import STRUCTURED, draw, program
from modula.duality import Batch, Unbiased
from modula.norms import (
    EQ,
    PSGD,
    InverseFree,
    Kronecker,
    LowRank,
    Metric,
    Scalar,
    Sum,
    TraceScaled,
    VarianceCorrected,
)

METRICS = [
    *(replace(m, damping=0.0) if isinstance(m, InverseFree) else m for m in STRUCTURED),
    PSGD(),
    PSGD(solver=EQ()),
    Scalar(),
    Kronecker(),
    Kronecker(fit=Sum()),
    Kronecker(fit=TraceScaled()),
    VarianceCorrected(Kronecker(fit=Sum())),
]


def last_direction(metric: Metric, scale: float) -> Tensor:
    """Of four steps, in units of gradients of size one."""
    weight = torch.zeros(4, 6)
    batch = Batch([program(metric, (4, 6), momentum=Unbiased(0.9))], [weight])
    for seed in range(4):
        parts = scale * draw(3, 4, 6, seed=seed).float()
        before = weight.clone()
        batch.propose([parts.mean(0)], {}, [{"microbatch_gradients": parts}])
        batch.update(torch.ones(()), {})
    return (before - weight) * scale ** (2 * metric.power - 1)


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
def test_the_size_of_gradients_is_forgotten_at_once(metric: Metric, scale: float) -> None:
    usual = last_direction(metric, 1.0)
    difference = (last_direction(metric, scale) - usual).norm() / usual.norm()
    assert_close(float(difference), 0.0, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "metric",
    [m for m in METRICS if isinstance(m, PSGD | InverseFree | LowRank)],
    ids=str,
)
def test_a_gradient_whose_square_overflows_is_no_sample(metric: Metric) -> None:
    weight = torch.zeros(4, 6)
    batch = Batch([program(metric, (4, 6))], [weight])
    for seed in range(3):
        batch.propose([draw(4, 6, seed=seed).float()], {})
    state = {name: each.views[0].clone() for name, each in batch.state.items() if name != "step"}
    batch.propose([1e25 * draw(4, 6).float()], {})
    rejected = state.pop("rejected")
    for name, kept in state.items():  # factors are balanced in every step: their product stays
        assert_close(batch.state[name].views[0], kept, rtol=1e-2, atol=1e-2)
    assert batch.state["rejected"].views[0] == rejected + 1
