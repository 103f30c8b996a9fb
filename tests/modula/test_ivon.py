"""IVON through the optimizer, against its own loop."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import modula


def test_ivon_is_the_plain_loop() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2, bias=False).double()
    optimizer = modula.recipes.ivon(net, 0.1, ess=50.0, prior=0.01, betas=(0.9, 0.9), first=0.5)
    mean, h, m = net.weight.detach().clone(), torch.full((2, 3), 0.5).double(), torch.zeros(2, 3)
    m = m.double()
    for k in range(1, 6):
        with optimizer.perturbed():
            moved = net.weight.detach() - mean
            gradient = net.weight.detach().sin() * k
            net.weight.grad = gradient.clone()
        assert_close(net.weight.detach(), mean)
        optimizer.step()
        f = gradient * moved * 50.0 * (h + 0.01)
        h = 0.9 * h + 0.1 * f + 0.005 * (h - f) ** 2 / (h + 0.01)
        m = 0.9 * m + 0.1 * gradient
        mean = mean - 0.1 * 0.51 * (m / (1 - 0.9**k) + 0.01 * mean) / (h + 0.01)
        assert_close(net.weight.detach(), mean)
    assert_close(optimizer.state[net.weight]["hessian"], h)


def test_draws_have_the_variance_of_the_posterior_and_weights_come_back() -> None:
    net = nn.Linear(100, 100, bias=False)
    optimizer = modula.recipes.ivon(net, ess=25.0, prior=0.0, first=4.0)
    before = net.weight.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), optimizer.perturbed():
        assert abs(float((net.weight.detach() - before).std()) - 0.1) < 0.01
        raise RuntimeError("inside")
    assert torch.equal(net.weight.detach(), before)
    assert optimizer.plan["weight"].known_as == "IVON"


def test_a_posterior_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="a posterior needs ess > 0"):
        modula.recipes.ivon(nn.Linear(2, 2), ess=0.0)
