"""sgd against torch.optim.SGD."""

import pytest
import torch
from training_runs import assert_same_run

import modula


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_torchs_sgd_for_1000_steps(momentum: float, nesterov: bool) -> None:
    assert_same_run(
        lambda net: modula.recipes.sgd(net, 0.05, momentum=momentum, nesterov=nesterov),
        lambda net: torch.optim.SGD(net.parameters(), 0.05, momentum=momentum, nesterov=nesterov),
        rtol=1e-9,
        atol=1e-12,
    )
