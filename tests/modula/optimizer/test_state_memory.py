"""State in bfloat16: half the memory, the same run but for noise, and averages that move."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modula
from modula import recipes
from modula.duality import Average, Batch, Declaration, Setting, Sharp, program_of
from modula.norms import L2

BF16 = torch.bfloat16


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 4)).to(dtype)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> float:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(net.parameters()).dtype
    for _ in range(steps):
        x = torch.randn(32, 8, generator=generator).to(dtype)
        loss = (net(x) - x[:, :4].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_an_average_of_slow_decay_moves_where_rounding_to_nearest_stands_still() -> None:
    """1.0, decayed 2000 times by 0.999, is 0.135; rounded to nearest it stays 1.0."""
    torch.manual_seed(0)
    program = program_of(
        Declaration(Setting(L2(1), potential=Sharp(), momentum=Average(0.999))), (1000,)
    )
    batch = Batch([program], [torch.zeros(1000)], kept=BF16)
    kept = batch.state["momentum"].views[0]
    assert kept.dtype == BF16
    nearest = kept.fill_(1.0).clone()
    for _ in range(2000):
        batch.propose([torch.zeros(1000)], {})
        nearest = (0.999 * nearest.float()).bfloat16()
    assert nearest.min() == 1.0
    assert kept.float().mean().item() == pytest.approx(0.999**2000, rel=0.05)


@pytest.mark.parametrize("name", ["muon", "adamw", "lion", "normuon", "kl_shampoo"])
def test_runs_follow_those_in_float32(name: str) -> None:
    recipe = recipes.RECIPES[name]
    full, half = network(), network()
    first = train(full, recipe(full), 1)
    runs = ((full, {}), (half, {"state_dtype": BF16}))
    losses = [train(net, recipe(net, **options), 80) for net, options in runs]
    assert losses[0] < 0.9 * first
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, BF16], ids=str)
def test_only_weight_shaped_state_is_narrow(dtype: torch.dtype) -> None:
    net = network(dtype=dtype)
    optimizer = recipes.normuon(net, state_dtype=BF16)
    train(net, optimizer, 2)
    working = dtype if dtype.itemsize >= 4 else torch.float32
    state = optimizer.state[net[2].weight]
    assert state["momentum"].dtype == BF16
    assert state["row_moment"].dtype == working
    bias = optimizer.state[net[2].bias]
    assert (bias["momentum"].dtype, bias["square"].dtype) == (BF16, BF16)
    assert bias["step"].dtype == torch.float32
    assert float(bias["step"]) == 2
    assert state["momentum"].any()


def test_rotated_weights_keep_what_they_are_made_of() -> None:
    net = network()
    optimizer = recipes.poet(net, block=4, every=3, state_dtype=BF16)
    assert optimizer.state[net[2].weight]["base"].dtype == torch.float32
    values = [torch.linalg.svdvals(net[2].weight.detach())]
    train(net, optimizer, 10)
    values.append(torch.linalg.svdvals(net[2].weight.detach()))
    torch.testing.assert_close(*values)


def states(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [x.clone() for state in optimizer.state.values() for x in state.values()]


def continued(net: nn.Module, optimizer: Any) -> list[Tensor]:
    torch.rand(1)  # of another generator than the rounding's
    train(net, optimizer, 5, seed=3)
    return [*net.parameters(), *states(optimizer)]


def test_copies_and_saved_states_continue_bit_by_bit() -> None:
    net = network()
    optimizer = recipes.muon(net, state_dtype=BF16)
    train(net, optimizer, 10)
    twin = copy.deepcopy({"net": net, "optimizer": optimizer})
    fresh = network(seed=5)
    fresh.load_state_dict(net.state_dict())
    loaded = recipes.muon(fresh, state_dtype=BF16)
    loaded.load_state_dict(optimizer.state_dict())
    expected = continued(net, optimizer)
    assert [x.dtype for x in states(twin["optimizer"])] == [x.dtype for x in states(optimizer)]
    for found in (continued(twin["net"], twin["optimizer"]), continued(fresh, loaded)):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_plans_count_the_bytes_of_state() -> None:
    net = nn.Linear(8, 16, bias=False)
    modula.declare(net, {"weight": modula.norms.RMSToRMS()})
    for options, size in (({}, 4 * 128 + 4 * 16), ({"state_dtype": BF16}, 2 * 128 + 4 * 16)):
        plan = recipes.normuon(net, **options).plan
        assert plan["weight"].state_bytes == size
        assert f"state: {size / 128:.3g} bytes a weight entry" in " ".join(str(plan).split())
    assert recipes.adamw(net).plan["weight"].state_bytes == 8 * 128
    assert recipes.sgd(net).plan["weight"].state_bytes == 0


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.bfloat16 or None; got torch.float16"):
        recipes.muon(nn.Linear(2, 2), state_dtype=torch.float16)


def test_layers_without_a_gradient_are_left_alone() -> None:
    net = network()
    optimizer = recipes.muon(net, state_dtype=BF16)
    before = [weight.detach().clone() for weight in net.parameters()]
    net[2].weight.grad = torch.randn(16, 16)
    optimizer.step()
    moved = [not torch.equal(w, was) for w, was in zip(net.parameters(), before, strict=True)]
    assert moved == [False, False, True, False, False, False]
