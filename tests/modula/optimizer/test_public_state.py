"""What a person does to `optimizer.state` is what the next step reads, or is refused."""

import copy
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from snapshots import assert_unchanged, snapshot
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import modula
from modula import SteepestDescent
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 8))


def trained(recipe: str, steps: int = 3, **options: Any) -> tuple[nn.Sequential, SteepestDescent]:
    net = network()
    optimizer = RECIPES[recipe](net, **options)
    for seed in range(steps):
        go_on(net, optimizer, seed)
    return net, optimizer


def go_on(net: nn.Module, optimizer: SteepestDescent, seed: int) -> None:
    fill_gradients(net, seed)
    optimizer.step()


def delete_all(optimizer: SteepestDescent) -> None:
    for weight in [*optimizer.state]:
        del optimizer.state[weight]


def empty_rows(optimizer: SteepestDescent) -> None:
    for own in optimizer.state.values():
        own.clear()


def all_none(optimizer: SteepestDescent) -> None:
    for own in optimizer.state.values():
        own.update(dict.fromkeys(own))


def new_mapping(optimizer: SteepestDescent) -> None:
    optimizer.state = defaultdict(dict)


def plain_mapping(optimizer: SteepestDescent) -> None:
    optimizer.state = {}


CLEARED: dict[str, Callable[[SteepestDescent], None]] = {
    "clear": lambda o: o.state.clear(),
    "reset": lambda o: o.reset(),
    **{each.__name__: each for each in (delete_all, empty_rows, all_none)},
    **{each.__name__: each for each in (new_mapping, plain_mapping)},
}


@pytest.mark.parametrize("way", CLEARED)
def test_a_cleared_state_starts_anew(way: str) -> None:
    net, optimizer = trained("adamw")
    twin = copy.deepcopy(net)
    CLEARED[way](optimizer)
    go_on(net, optimizer, 7)
    fresh = modula.recipes.adamw(twin)
    go_on(twin, fresh, 7)
    assert_unchanged(optimizer, snapshot(fresh))
    assert float(optimizer.state[net[0].weight]["step"]) == 1


@pytest.mark.parametrize("recipe", ["muon", "shampoo", "poet", "kfac", "bias_corrected_adamw"])
def test_it_does_under_every_kind_of_state(recipe: str) -> None:
    net, optimizer = trained(recipe)
    twin = copy.deepcopy(net)
    for module in twin.modules():  # copied hooks would still feed the first optimizer
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    optimizer.state.clear()
    optimizer.zero_grad()
    fresh = RECIPES[recipe](twin)
    for seed in (7, 8):
        go_on(net, optimizer, seed)
        go_on(twin, fresh, seed)
        assert_unchanged(optimizer, snapshot(fresh))


def test_a_cleared_state_is_saved_whole() -> None:
    net, optimizer = trained("adamw")
    optimizer.state.clear()
    saved = optimizer.state_dict()["state"]
    assert [{*own} for own in saved.values()] == [{"step", "momentum", "square"}] * 6
    assert not any(x.any() for own in saved.values() for x in own.values())
    assert set(optimizer.state) == set(net.parameters())


def test_one_weight_or_one_name_of_it_starts_anew() -> None:
    net, optimizer = trained("adamw")
    before = {name: copy.deepcopy(optimizer.state[w]) for name, w in net.named_parameters()}
    optimizer.reset("2.weight", net[0].bias)
    del optimizer.state[net[3].weight]["momentum"]
    after = optimizer.state_dict()["state"]
    changed = [
        (name, key)
        for (name, own), now in zip(before.items(), after.values(), strict=True)
        for key in own
        if not torch.equal(own[key], now[key])
    ]
    every = ["step", "momentum", "square"]
    assert changed == [
        *(("0.bias", key) for key in every),
        *(("2.weight", key) for key in every),
        ("3.weight", "momentum"),
    ]


PUT: dict[str, Callable[[Tensor], Any]] = {
    "zeros": lambda view: torch.zeros_like(view),
    "in float64": lambda view: torch.linspace(-1, 1, view.numel(), dtype=torch.float64).view(8, 8),
    "whole numbers": lambda view: torch.arange(64).view(8, 8),
    "not contiguous": lambda view: torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).T,
    "a parameter": lambda view: nn.Parameter(view.detach() * 2),
}


@pytest.mark.parametrize("recipe", ["muon", "adamw", "normuon"])
@pytest.mark.parametrize("kind", PUT)
def test_a_tensor_that_is_put_in_is_read(recipe: str, kind: str) -> None:
    net, optimizer = trained(recipe)
    weight = net[2].weight
    twin_net, twin = copy.deepcopy((net, optimizer))
    row = optimizer.state[weight]
    value = PUT[kind](row["momentum"])
    row["momentum"] = value
    twin.state[twin_net[2].weight]["momentum"].copy_(value.detach())
    for seed in (7, 8):
        go_on(net, optimizer, seed)
        go_on(twin_net, twin, seed)
    assert_unchanged(optimizer, snapshot(twin))
    assert optimizer.state[weight] is row  # the user's handle still is the state
    assert row["momentum"].dtype == torch.float32


def test_numbers_set_counters() -> None:
    net, optimizer = trained("adamw")
    optimizer.state[net[0].weight]["step"] = 41
    optimizer.state[net[0].bias]["step"] = torch.tensor(9)
    go_on(net, optimizer, 7)
    assert float(optimizer.state[net[0].weight]["step"]) == 42
    assert float(optimizer.state[net[0].bias]["step"]) == 10
    assert float(optimizer.state[net[2].weight]["step"]) == 4


def test_two_weights_exchange_their_state() -> None:
    net, optimizer = trained("muon")
    one, two = optimizer.state[net[2].weight], optimizer.state[net[3].weight]
    before = one["momentum"].clone(), two["momentum"].clone()
    one["momentum"], two["momentum"] = two["momentum"], one["momentum"]
    found = optimizer.state_dict()["state"]
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(optimizer.state[net[2].weight]["momentum"], before[1])
    assert torch.equal(optimizer.state[net[3].weight]["momentum"], before[0])
    assert len(found) == 6
    optimizer.state[net[2].weight] = optimizer.state[net[3].weight]
    go_on(net, optimizer, 7)
    assert one is not two
    found = [optimizer.state[net[i].weight]["momentum"] for i in (2, 3)]
    assert found[0].data_ptr() != found[1].data_ptr()
    expected = [0.95 * before[0] + 0.05 * net[i].weight.grad for i in (2, 3)]
    torch.testing.assert_close(found, expected)


def test_memory_given_to_a_view_is_seen() -> None:
    net, optimizer = trained("muon")
    before = optimizer.state[net[2].weight]["momentum"]
    before.data = torch.ones(8, 8)
    go_on(net, optimizer, 7)
    now = optimizer.state[net[2].weight]["momentum"]
    torch.testing.assert_close(now, 0.95 + 0.05 * net[2].weight.grad)


def test_to_look_at_an_unknown_weight_is_no_change() -> None:
    net, optimizer = trained("muon")
    before = snapshot(optimizer)
    assert optimizer.state[nn.Parameter(torch.ones(2))] == {}
    assert len(optimizer.state_dict()["state"]) == 6
    assert_unchanged(optimizer, before)


def wrong_row(optimizer: SteepestDescent, weight: Tensor) -> None:
    optimizer.state[weight] = torch.zeros(8, 8)  # type: ignore[assignment]


def no_mapping(optimizer: SteepestDescent, weight: Tensor) -> None:
    optimizer.state = None  # type: ignore[assignment]


REFUSED: dict[str, tuple[Callable[[SteepestDescent, Tensor], Any], str]] = {
    "shape": (
        lambda o, w: o.state[w].update(momentum=torch.zeros(8, 6)),
        r"^momentum of 2.weight holds real numbers of shape \(8, 8\); got a tensor of shape "
        r"\(8, 6\) and float32$",
    ),
    "complex": (
        lambda o, w: o.state[w].update(momentum=torch.zeros(8, 8, dtype=torch.complex64)),
        r"real numbers of shape \(8, 8\); got a tensor of shape \(8, 8\) and complex64$",
    ),
    "sparse": (
        lambda o, w: o.state[w].update(momentum=torch.eye(8).to_sparse()),
        r"momentum of 2.weight holds real numbers",
    ),
    "words": (
        lambda o, w: o.state[w].update(step="3"),
        r"^step of 2.weight holds real numbers of shape \(\); got '3'$",
    ),
    "name": (
        lambda o, w: o.state[w].update(exp_avg=torch.zeros(8, 8)),
        r"2.weight has 'exp_avg', which its program does not keep: \(known: step, momentum, square",
    ),
    "misspelt": (
        lambda o, w: o.state[w].update(momentun=torch.zeros(8, 8)),
        r"2.weight has 'momentun', .*: did you mean momentum\?",
    ),
    "stranger": (
        lambda o, w: o.state.update({torch.ones(3): {"momentum": torch.ones(3)}}),
        r"a row for a tensor of shape \(3,\) and float32, which is no weight .* call "
        r"optimizer.replace\(old, new, rows=...\)$",
    ),
    "word as a weight": (
        lambda o, w: o.state.update({"2.weight": {}}),
        r"optimizer.state has a row for '2.weight', which is no weight of this optimizer",
    ),
    "row": (wrong_row, r"the state of 2.weight is a mapping from names to tensors; got a tensor"),
    "mapping": (no_mapping, r"is a mapping .*; got a NoneType: call optimizer.reset\(\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_batch_can_hold_is_refused_before_anything_changes(kind: str) -> None:
    net, optimizer = trained("adamw")
    weights = [weight.detach().clone() for weight in net.parameters()]
    shown = optimizer.state
    before = copy.deepcopy({w: own for w, own in shown.items()})
    del optimizer.state[net[0].weight]["momentum"]  # which would be reset, if all were well
    spoil, words = REFUSED[kind]
    spoil(optimizer, net[2].weight)
    fill_gradients(net, 7)
    for act in (optimizer.step, optimizer.state_dict, lambda: copy.deepcopy(optimizer)):
        with pytest.raises(ValueError, match=words) as error:
            act()
        assert "\n" not in str(error.value)
    assert all(map(torch.equal, net.parameters(), weights))
    held = [each.batch.state_of(each.place) for each in optimizer._own.batches.held()]
    for now, then in zip(held, before.values(), strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


def test_a_weight_that_is_made_from_its_state_starts_anew_as_a_whole() -> None:
    net, optimizer = trained("poet", block=4)
    del optimizer.state[net[2].weight]["base"]
    with pytest.raises(ValueError, match=r"2.weight is made again from all of its state, of which"):
        optimizer.state_dict()
    with pytest.raises(ValueError, match=r"no weight of this optimizer: .* did you mean 2.weight"):
        optimizer.reset("2.wieght")
    optimizer.state[net[2].weight].clear()
    before = net[2].weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    go_on(net, optimizer, 7)
    torch.testing.assert_close(net[2].weight.detach(), before)


def test_an_unchanged_state_costs_no_operation_on_tensors() -> None:
    net, optimizer = trained("adamw")

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen: list[Any] = []
    with Operations():
        optimizer._settle()
        optimizer._model.look(optimizer._own.all)
    assert seen == []


def test_state_in_bfloat16_is_rounded_once_and_told(caplog: pytest.LogCaptureFixture) -> None:
    net, optimizer = trained("muon", state_dtype=torch.bfloat16)
    value = torch.randn(8, 8)
    optimizer.state[net[2].weight]["momentum"] = value
    optimizer.state[net[3].weight]["momentum"] = value.double()
    with caplog.at_level(logging.WARNING):
        optimizer.state_dict()
    assert torch.equal(optimizer.state[net[2].weight]["momentum"], value.bfloat16())
    words = "rounded once: momentum of 2.weight to torch.bfloat16, and 1 more"
    assert [words in record.message for record in caplog.records] == [True]
