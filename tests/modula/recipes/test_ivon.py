"""IVON through the optimizer, against its own loop."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

import modula
from modula import SteepestDescent
from tests.support.processes import in_two_processes, needs_fork


class Loop:
    """IVON written out for one matrix, from gradients and displacements of each step's samples."""

    def __init__(self, mean: Tensor) -> None:
        self.mean, self.h, self.m = mean, torch.full_like(mean, 0.5), torch.zeros_like(mean)
        self.k = 0

    def step(self, samples: list[tuple[Tensor, Tensor]]) -> None:
        self.k += 1
        gradient = torch.stack([g for g, _ in samples]).mean(0)
        f = torch.stack([g * moved for g, moved in samples]).mean(0) * 50.0 * (self.h + 0.01)
        self.h = 0.9 * self.h + 0.1 * f + 0.005 * (self.h - f) ** 2 / (self.h + 0.01)
        self.m = 0.9 * self.m + 0.1 * gradient
        ahead = self.m / (1 - 0.9**self.k) + 0.01 * self.mean
        self.mean = self.mean - 0.1 * 0.51 * ahead / (self.h + 0.01)


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2, bias=False).double()


def ivon(model: nn.Module, **options: Any) -> SteepestDescent:
    return modula.recipes.ivon(
        model, 0.1, ess=50.0, prior=0.01, betas=(0.9, 0.9), first=0.5, **options
    )


def loss(model: nn.Module, k: int) -> Tensor:
    return model(torch.eye(3).double() * k).cos().sum()


def drawn(net: nn.Module, optimizer: SteepestDescent, k: int, share: float) -> tuple[Tensor, ...]:
    """One sample's gradient, from the formula, and displacement; its share is sent back."""
    weight = net.get_parameter("weight")
    mean = weight.detach().clone()
    with optimizer.perturbed():
        moved = weight.detach() - mean
        (loss(net, k) * share).backward()
        gradient = -k * (k * weight.detach()).sin()
    assert torch.equal(weight.detach(), mean)
    return gradient, moved


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("samples", [1, 3])
def test_ivon_is_the_plain_loop(samples: int, sign: int) -> None:
    """With one sample a step and with several, down and up."""
    net = network()
    optimizer, oracle = ivon(net, maximize=sign < 0), Loop(net.weight.detach().clone())
    for k in range(1, 6):
        optimizer.zero_grad()
        seen = [drawn(net, optimizer, k, sign / samples) for _ in range(samples)]
        with optimizer.perturbed(), torch.no_grad():
            loss(net, k)  # a prediction in between is no sample
        optimizer.step()
        oracle.step([(gradient, moved) for gradient, moved in seen])
        assert_close(net.weight.detach(), oracle.mean)
    assert_close(optimizer.state[net.weight]["hessian"], oracle.h)


def test_a_weight_that_is_used_twice_is_one_weight() -> None:
    """O33: of both uses the gradients are at one draw."""
    net = nn.Sequential(
        nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)
    ).double()
    net[2].weight = net[0].weight
    optimizer, weight = ivon(net), net[0].weight
    oracle = Loop(weight.detach().clone())
    for _ in range(3):
        optimizer.zero_grad()
        with optimizer.perturbed():
            moved = weight.detach() - oracle.mean
            net(torch.eye(3).double()).square().sum().backward()
        assert weight.grad is not None
        gradient = weight.grad.clone()
        optimizer.step()
        oracle.step([(gradient, moved)])
        assert_close(weight.detach(), oracle.mean)


def half(rank: int) -> tuple[Tensor, Tensor]:
    """Each process has a loss and draws of its own; the loop sees both."""
    net = network()
    parallel = DistributedDataParallel(net)
    optimizer, oracle = ivon(parallel), Loop(net.weight.detach().clone())
    torch.manual_seed(rank)
    for k in range(1, 6):
        optimizer.zero_grad()
        weight, mean = net.weight, net.weight.detach().clone()
        with optimizer.perturbed():
            moved = weight.detach() - mean
            loss(parallel, k + rank).backward()
            gradient = -(k + rank) * ((k + rank) * weight.detach()).sin()
        optimizer.step()
        both = [torch.empty(2, 2, 3).double() for _ in range(2)]
        dist.all_gather(both, torch.stack([gradient, moved]))
        oracle.step([(g, m) for g, m in both])
        assert_close(weight.detach(), oracle.mean)
    return net.weight.detach(), oracle.h


@needs_fork
def test_processes_average_over_their_draws(tmp_path: Path) -> None:
    first, second = in_two_processes(tmp_path, half)
    assert_close(first, second, rtol=0, atol=0)


def test_a_loss_scale_is_taken_out() -> None:
    ends = []
    for enabled in (True, False):
        net = network()
        optimizer, scaler = ivon(net), torch.amp.GradScaler("cpu", enabled=enabled)
        for k in range(1, 4):
            optimizer.zero_grad()
            with optimizer.perturbed():
                scaler.scale(loss(net, k)).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append(net.weight.detach())
    assert_close(*ends)


def test_without_a_pass_at_a_draw_it_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    optimizer = ivon(net)
    with caplog.at_level(logging.WARNING):
        for k in (1, 2):
            loss(net, k).backward()
            optimizer.step()
    assert caplog.text.count("passes inside optimizer.perturbed() show") == 1
    assert (optimizer.state[net.weight]["hessian"] == 0.5).all()


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


@pytest.mark.parametrize("context", ["perturbed", "sampled"])
def test_no_step_is_taken_while_weights_or_gradients_are_others(context: str) -> None:
    net = network()
    optimizer = ivon(net)
    weight = net.weight.detach().clone()
    before = {name: value.clone() for name, value in optimizer.state[net.weight].items()}
    with pytest.raises(RuntimeError, match=context), getattr(optimizer, context)():
        loss(net, 1).backward()
        optimizer.step()
    assert torch.equal(net.weight, weight)
    state = optimizer.state[net.weight]
    assert all(torch.equal(state[name], value) for name, value in before.items())
    with optimizer.perturbed():
        loss(net, 1).backward()
    optimizer.step()
    assert not torch.equal(net.weight, weight)
