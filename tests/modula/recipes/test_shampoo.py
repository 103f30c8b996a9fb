"""The Shampoo family against plain loops."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from training_runs import assert_same_run

import modula
from modula import recipes
from plain_loops import Loop, hidden, inverse_root


def test_shampoo_grafted_to_adam_is_the_plain_loop() -> None:
    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        for name, new, beta in (
            ("m", g, 0.9),
            ("left", g @ g.mT, 0.99),
            ("right", g.mT @ g, 0.99),
            ("v", g**2, 0.999),
        ):
            state[name] = beta * state.get(name, 0.0) + (1 - beta) * new
        m = state["m"] / (1 - 0.9**step)
        left, right = (state[n] / (1 - 0.99**step) for n in ("left", "right"))
        adam = m / ((state["v"] / (1 - 0.999**step)).sqrt() + 1e-8)
        d = inverse_root(left, 0.25, 1e-4) @ m @ inverse_root(right, 0.25, 1e-4)
        return d * adam.norm() / d.norm()

    assert_same_run(
        lambda net: recipes.shampoo(hidden(net), 1e-2, every=1, damping=1e-4),
        lambda net: Loop(net, 1e-2, direction),
        steps=60,
        bias=False,
        width=10,  # no multiple of another side: one block a weight
        rtol=1e-6,
        atol=1e-8,
    )


def test_shampoo_squared_is_the_plain_loop() -> None:
    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        for name, new, beta in (("m", g, 0.9), ("left", g @ g.mT, 0.95), ("right", g.mT @ g, 0.95)):
            state[name] = beta * state.get(name, 0.0) + (1 - beta) * new
        left, right = (state[n] / (1 - 0.95**step) for n in ("left", "right"))
        d = inverse_root(left, 0.5, 0.1) @ state["m"] @ inverse_root(right, 0.5, 0.1)
        return left.trace().sqrt() * d

    assert_same_run(
        lambda net: recipes.shampoo_squared(hidden(net), 1e-2, every=1, damping=0.1),
        lambda net: Loop(net, 1e-2, direction),
        steps=60,
        bias=False,
        width=10,  # no multiple of another side: one block a weight
        rtol=1e-6,
        atol=1e-8,
    )


def test_asgo_is_the_plain_loop_along_the_short_side() -> None:
    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        wide = g.shape[0] <= g.shape[1]
        new = g @ g.mT if wide else g.mT @ g
        state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
        state["v"] = 0.8 * state.get("v", 0.0) + 0.2 * new
        root = inverse_root(state["v"], 0.5, 1e-4)
        d = root @ state["m"] if wide else state["m"] @ root
        return 0.2 * d / d.square().mean().sqrt()

    assert_same_run(
        lambda net: recipes.asgo(hidden(net), 1e-2, damping=1e-4),
        lambda net: Loop(net, 1e-2, direction),
        steps=60,
        bias=False,
        rtol=1e-6,
        atol=1e-8,
    )


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 4)], ids=str)
def test_one_sided_without_memory_is_the_polar_factor_of_rms_one(shape: tuple[int, int]) -> None:
    net = nn.Linear(shape[1], shape[0], bias=False).double()
    modula.declare(net, {"weight": modula.norms.RMSToRMS()})
    before = net.weight.detach().clone()
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    net.weight.grad = gradient.clone()
    recipes.one_sided(net, 1.0, momentum=0.0, beta=0.0, damping=0.0).step()
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    assert_close(before - net.weight.detach(), max(shape) ** 0.5 * u @ vh)


def test_the_guard_binds_only_after_a_long_silence() -> None:
    def lengths(silent: int) -> float:
        net = nn.Linear(4, 4, bias=False).double()
        modula.declare(net, {"weight": modula.norms.RMSToRMS()})
        optimizer = recipes.kl_shampoo(net, 1.0)
        generator, largest = torch.Generator().manual_seed(0), 0.0
        for step in range(60 + silent):
            scale = 1e-12 if 30 <= step < 30 + silent else 1.0
            before = net.weight.detach().clone()
            net.weight.grad = scale * torch.randn(4, 4, generator=generator).double()
            optimizer.step()
            largest = max(largest, float((before - net.weight.detach()).square().mean().sqrt()))
        return largest

    most = 2 * (0.1 / 1.9) ** 0.5  # twice what white gradients make under a momentum of 0.9
    assert lengths(0) < 0.9 * most
    assert lengths(300) == pytest.approx(most)


def test_only_the_short_side_has_a_factor_in_convolutions_too() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 40, 2))
    optimizer = recipes.one_sided(net)
    shapes = {k: tuple(v.shape) for k, v in optimizer.state[net[1].weight].items()}
    assert shapes["factor_1"][-2:] == (32, 32)  # of 40 outputs and 8 inputs on 2 x 2 taps
    assert "factor_0" not in shapes
