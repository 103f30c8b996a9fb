"""A GradScaler multiplies the loss, and with it what hooks see of a network."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from snapshots import assert_unchanged, snapshot
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.testing import assert_close

import modula
from modula import SteepestDescent
from modula.recipes import RECIPES

RECIPES_OF_LAYERS: dict[str, dict[str, Any]] = {
    "kfac": {},
    "ekfac": {},
    "foof": {"every": 1, "sample_every": 1},
    "newton_muon": {"every": 1},
    "sophia": {"rho": 10.0},
    "bias_corrected_adamw": {},
    "bias_corrected_sophia": {"rho": 10.0},
    "bias_corrected_shampoo": {"every": 1},
}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Task:
    """A network, its optimizer, and a GradScaler whose scale grows every two steps."""

    def __init__(self, name: str, enabled: bool = True, **options: Any) -> None:
        self.net = network()
        self.optimizer: SteepestDescent = RECIPES[name](
            self.net, 0.01, **RECIPES_OF_LAYERS[name], **options
        )
        self.scaler = GradScaler("cpu", init_scale=2.0**10, growth_interval=2, enabled=enabled)

    def backward(self, step: int, factor: float = 1.0) -> None:
        """All passes of a step, multiplied by a factor that may be infinite."""
        self.optimizer.zero_grad()
        x, labels = draw(16, 6, seed=step), draw(2, 16, 3, seed=step + 1000).argmax(-1)
        self._pass(x, labels[0], factor)
        with self.optimizer.sampled():
            self._pass(x, labels[1], factor)

    def _pass(self, x: Tensor, labels: Tensor, factor: float) -> None:
        for some, theirs in zip(x.chunk(2), labels.chunk(2), strict=True):
            loss = F.cross_entropy(self.net(some), theirs)
            self.scaler.scale(loss * factor / 2).backward()

    def train(self, update: Callable[["Task"], None], steps: int = 5) -> list[Tensor]:
        for step in range(steps):
            self.backward(step)
            update(self)
            self.scaler.update()
        return self.weights

    @property
    def weights(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self.net.parameters()]

    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        state = self.optimizer.state
        return {w: {key: x.clone() for key, x in own.items()} for w, own in state.items()}


def plainly(task: Task) -> None:
    task.scaler.step(task.optimizer)


def clipped(task: Task) -> None:
    task.scaler.unscale_(task.optimizer)
    nn.utils.clip_grad_norm_(task.net.parameters(), 0.1)
    task.scaler.step(task.optimizer)


def told(task: Task) -> None:
    task.scaler.unscale_(task.optimizer)
    nn.utils.clip_grad_norm_(task.net.parameters(), 0.1)
    task.scaler.step(task.optimizer, loss_scale=task.scaler.get_scale())


def through_a_subclass(task: Task) -> None:
    class Own(GradScaler):
        """A GradScaler as FSDP has one."""

        def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            return super().step(optimizer, *args, **kwargs)

    task.scaler.__class__ = Own
    clipped(task)


@pytest.mark.parametrize("update", [plainly, clipped, told, through_a_subclass])
@pytest.mark.parametrize("name", RECIPES_OF_LAYERS)
def test_a_scaled_loss_makes_the_same_steps(name: str, update: Callable[[Task], None]) -> None:
    """Scales are powers of two, so that only the order of roundings differs."""
    scaled = Task(name)
    assert_close(scaled.train(update), Task(name, enabled=False).train(update))
    assert scaled.scaler.get_scale() == 2.0**12
    assert not hasattr(scaled.optimizer, "grad_scale")


def test_a_scale_that_nobody_says_is_asked_for() -> None:
    task = Task("kfac")
    task.backward(0)
    # A scaler of another kind, which writes the same two attributes.
    task.optimizer.grad_scale, task.optimizer.found_inf = None, torch.zeros(())  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="nobody says by how much.*loss_scale=scaler.get_scale()"):
        task.optimizer.step()
    assert_close(task.weights, Task("kfac").weights, rtol=0, atol=0)
    assert not hasattr(task.optimizer, "found_inf")


def test_inputs_need_no_scale() -> None:
    def unscaled(task: Task) -> None:
        task.scaler.unscale_(task.optimizer)
        task.scaler.step(task.optimizer)

    assert_close(Task("foof").train(unscaled), Task("foof", enabled=False).train(plainly))


@pytest.mark.parametrize("name", RECIPES_OF_LAYERS)
def test_a_step_that_overflows_is_left_out_with_its_statistics(name: str) -> None:
    task = Task(name)
    task.train(plainly, 2)
    before, state = task.weights, task.state()
    task.backward(2, float("inf"))
    plainly(task)
    task.scaler.update()
    assert_close(task.weights, before, rtol=0, atol=0)
    for weight, own in state.items():
        assert_close(task.optimizer.state[weight], own, rtol=0, atol=0)
    twin = Task(name)
    twin.train(plainly, 2)
    for each in (task, twin):
        each.backward(3)
        plainly(each)
    assert_close(task.weights, twin.weights)
    assert task.scaler.get_scale() == twin.scaler.get_scale() / 2


def test_gradients_that_are_thrown_away_leave_no_statistics() -> None:
    """zero_grad does so, and leaves what the passes at sampled labels showed."""
    task, twin = (Task("kfac", enabled=False, sampled=False) for _ in range(2))
    task.net(draw(4, 6, seed=9)).square().sum().backward()
    for each in (task, twin):
        each.train(plainly, 1)
    assert_close(task.weights, twin.weights, rtol=0, atol=0)
    fisher = Task("kfac", enabled=False)
    fisher.backward(0)
    fisher.optimizer.zero_grad()
    fisher.net(draw(4, 6, seed=9)).square().sum().backward()
    fisher.optimizer.step()
    assert fisher.optimizer.state[fisher.net[0].weight]["seen_outputs"] == 1


def test_an_overflow_at_sampled_labels_is_no_sample(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    optimizer = modula.recipes.sophia(net)
    net(draw(4, 6, seed=0)).square().mean().backward()
    with optimizer.sampled():
        (net(draw(4, 6, seed=0)).sum() * float("inf")).backward()
    with caplog.at_level(logging.WARNING):
        optimizer.step()
    assert "gradients at sampled labels are not finite" in caplog.text
    assert not optimizer.state[net[0].weight]["square"].any()
    assert all(weight.isfinite().all() for weight in net.parameters())


def test_half_precision_gradients_are_refused() -> None:
    net = nn.Linear(4, 4, bias=False).half()
    optimizer = modula.recipes.foof(net)
    scaler = GradScaler("cpu")
    scaler.scale(net(torch.ones(2, 4).half()).sum()).backward()
    with pytest.raises(ValueError, match="cannot unscale gradients in float16"):
        scaler.step(optimizer)


def test_a_step_that_overflows_changes_nothing_where_no_statistic_is_read() -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    scaler = torch.amp.GradScaler("cpu")
    before = snapshot(optimizer)
    x = torch.full((1, 6), float("inf"), dtype=torch.float64)
    scaler.scale(net(x).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_unchanged(optimizer, before)
