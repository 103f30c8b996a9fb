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


def first_step(recipe: str, shape: tuple[int, ...], **options: Any) -> tuple[Tensor, Tensor]:
    """The gradient, and the direction of the first step, of one weight."""
    torch.manual_seed(0)
    net: nn.Module = nn.Linear(shape[1], shape[0], bias=False)
    if len(shape) > 2:
        net = nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
    net = net.double()
    before = net.weight.detach().clone()
    net.weight.grad = torch.randn(shape, dtype=torch.float64)
    modula.recipes.RECIPES[recipe](net, 1.0, **options).step()
    return net.weight.grad, before - net.weight.detach()


def published_shampoo(g: Tensor) -> Tensor:
    d = inverse_root(g @ g.mT, 0.25, 1e-6) @ g @ inverse_root(g.mT @ g, 0.25, 1e-6)
    return d * (g / (g.abs() + 1e-8)).norm() / d.norm()


def published_shampoo_squared(g: Tensor) -> Tensor:
    d = inverse_root(g @ g.mT, 0.5, 0.1) @ g @ inverse_root(g.mT @ g, 0.5, 0.1)
    return (g @ g.mT).trace().sqrt() * d


def polar_factor(g: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize(
    "shape", [(12, 6), (6, 12), (8, 2), (3, 24), (7, 5), (2, 3, 2, 2)], ids=str
)
@pytest.mark.parametrize(
    ("recipe", "published", "options"),
    [
        ("shampoo", published_shampoo, {}),
        ("shampoo_squared", published_shampoo_squared, {"momentum": 0.0, "damping": 0.1}),
        ("eshampoo", polar_factor, {"tolerance": 0.0}),
    ],
)
def test_a_whole_weight_takes_the_published_first_step(
    recipe: str, published: Any, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    gradient, direction = first_step(recipe, shape, square=False, **options)
    assert_close(direction.flatten(1), published(gradient.flatten(1)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "blocks"), [((12, 6), (2, 1)), ((6, 12), (1, 2)), ((8, 2), (4, 1)), ((3, 24), (1, 8))]
)
def test_square_blocks_take_it_each_on_its_own(
    shape: tuple[int, int], blocks: tuple[int, int]
) -> None:
    gradient, direction = first_step("eshampoo", shape, tolerance=0.0)
    expected = torch.cat(
        [
            torch.cat([polar_factor(part) for part in row.chunk(blocks[1], 1)], 1)
            for row in gradient.chunk(blocks[0], 0)
        ]
    )
    assert_close(direction, expected, rtol=1e-6, atol=1e-6)


CUTTING = ["kl_shampoo", "shampoo", "shampoo_squared", "bias_corrected_shampoo", "soap", "kl_soap"]
CUTTING += ["eshampoo", "soap_muon", "psgd", "psgd_pro", "if_shampoo"]
CUTTING += ["newton_muon", "newton_muon_sandwich"]


@pytest.mark.parametrize("name", CUTTING)
def test_the_plan_says_which_weights_are_cut_and_an_option_leaves_them_whole(name: str) -> None:
    net = nn.Linear(12, 6, bias=False)
    make = modula.recipes.RECIPES[name]
    cut, whole = (make(net, square=square).plan["weight"].metric for square in (True, False))
    assert make(net).plan["weight"].metric == cut
    assert "2 blocks" in cut and "12" not in cut
    assert "blocks" not in whole and "12" in whole
