"""A tensor in the place of a weight takes over the state of the rows that it says."""

import copy
import logging
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from snapshots import assert_unchanged, snapshot
from torch import Tensor, nn

import modula
from modula import SteepestDescent
from modula.manifolds import Stiefel
from modula.norms import KyFan
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))


def trained(recipe: str, **options: Any) -> tuple[nn.Sequential, SteepestDescent]:
    net = network()
    optimizer = RECIPES[recipe](net, **options)
    for seed in range(3):
        go_on(net, optimizer, seed)
    return net, optimizer


def go_on(net: nn.Module, optimizer: SteepestDescent, seed: int) -> None:
    fill_gradients(net, seed)
    optimizer.step()


def by_rows(old: Tensor, rows: list[int], first: float = 0.0) -> Tensor:
    return torch.stack([old[i] if i >= 0 else torch.full_like(old[0], first) for i in rows])


ROWS = {
    "grow": [0, 1, 2, 3, 4, 5, 6, 7, -1, -1],
    "densify": [0, 1, 1, 2, 3, 4, 5, 6, 7, 7],
    "prune": [0, 2, 5],
    "permute": [7, 6, 5, 4, 3, 2, 1, 0],
    "all new": [-1] * 8,
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16], ids=str)
def test_rows_take_their_state_with_them(kind: str, state_dtype: torch.dtype | None) -> None:
    net, optimizer = trained("adamw", state_dtype=state_dtype)
    rows, old = ROWS[kind], net[2].weight
    before = {w: {k: x.clone() for k, x in own.items()} for w, own in optimizer.state.items()}
    new = nn.Parameter(torch.randn(len(rows), 8))
    optimizer.replace(old, new, rows=torch.tensor(rows))
    net[2].weight = new
    saved = optimizer.state_dict()
    assert old not in optimizer.state
    assert any(new is each for group in optimizer.param_groups for each in group["params"])
    for weight, own in optimizer.state.items():
        for name, value in own.items():
            then = before[old if weight is new else weight][name]
            expected = by_rows(then, rows) if weight is new and then.ndim else then
            assert torch.equal(value, expected)
            assert value.dtype == then.dtype
    # An optimizer that was built for the new weight, and loads this state, goes on alike.
    twin_net = copy.deepcopy(net)
    twin = modula.recipes.adamw(twin_net, state_dtype=state_dtype)
    twin.load_state_dict(saved)
    for seed in (7, 8):
        for each, owner in ((optimizer, net), (twin, twin_net)):
            for weight, gradient in zip(owner.parameters(), drawn(owner, seed), strict=True):
                weight.grad = gradient
            each.step()
    assert_unchanged(optimizer, snapshot(twin))


def drawn(net: nn.Module, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(w.shape, generator=generator) for w in net.parameters()]


def test_moments_of_rows_go_with_them_and_factors_start_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net, optimizer = trained("normuon")
    before = {k: x.clone() for k, x in optimizer.state[net[2].weight].items()}
    assert before["row_moment"].shape[0] == 8
    optimizer.replace("2.weight", nn.Parameter(torch.randn(3, 8)), rows=ROWS["prune"])
    new = optimizer.param_groups[0]["params"][1]
    assert torch.equal(optimizer.state[new]["row_moment"], before["row_moment"][ROWS["prune"]])

    net, optimizer = trained("shampoo")
    before = {k: x.clone() for k, x in optimizer.state[net[0].weight].items()}
    new = nn.Parameter(torch.randn(10, 6))
    with caplog.at_level(logging.WARNING):
        optimizer.replace(net[0].weight, new, rows=ROWS["grow"])
    (line,) = [record.message for record in caplog.records]
    assert line == (
        "0.weight has other rows now, and the estimate that mixes rows starts anew: "
        "seen, factor_0, root_0, rejected_0, factor_1, root_1, rejected_1"
    )
    state = optimizer.state_dict()["state"][0]
    assert torch.equal(state["momentum"], by_rows(before["momentum"], ROWS["grow"]))
    assert torch.equal(state["graft_square"], by_rows(before["graft_square"], ROWS["grow"]))
    assert (float(state["step"]), float(state["seen"])) == (3, 0)
    fresh = RECIPES["shampoo"](nn.Linear(6, 10, bias=False)).state_dict()["state"][0]
    for name in ("factor_0", "root_0", "factor_1", "root_1"):
        assert torch.equal(state[name], fresh[name])


def test_where_rows_cannot_be_told_from_columns_state_starts_anew() -> None:
    net, optimizer = trained("normuon")
    before = {k: x.clone() for k, x in optimizer.state[net[2].weight].items()}
    optimizer.replace("2.weight", nn.Parameter(torch.randn(8, 8)))
    new = optimizer._own.find("2.weight").weight
    optimizer.state_dict()
    torch.testing.assert_close(optimizer.state[new], before, rtol=0, atol=0)
    optimizer.replace("2.weight", nn.Parameter(torch.randn(8, 8)), rows=ROWS["permute"])
    new = optimizer._own.find("2.weight").weight
    optimizer.state_dict()
    assert torch.equal(optimizer.state[new]["momentum"], before["momentum"].flip(0))
    assert not optimizer.state[new]["row_moment"].any()


def test_loaded_by_assignment_then_replaced_the_run_goes_on() -> None:
    net, optimizer = trained("muon")
    twin_net, twin = copy.deepcopy((net, optimizer))
    net.load_state_dict({k: v.clone() for k, v in net.state_dict().items()}, assign=True)
    for name, weight in net.named_parameters():
        optimizer.replace(name, weight)
    for seed in (7, 8):
        go_on(net, optimizer, seed)
        go_on(twin_net, twin, seed)
    assert_unchanged(optimizer, snapshot(twin))


def test_an_exchange_by_hand_names_the_call_that_follows_it() -> None:
    net, optimizer = trained("adamw")
    new = [nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(3))]
    for group in optimizer.param_groups:
        for i, weight in enumerate(group["params"]):
            if weight is net[0].weight or weight is net[0].bias:
                group["params"][i] = new[weight.ndim == 1]
    with pytest.raises(ValueError, match=r"in place of 0.weight: .* optimizer.replace\('0.weight'"):
        optimizer.step()
    optimizer.replace("0.weight", new[0], rows=ROWS["prune"])
    with pytest.raises(ValueError, match=r"in place of 0.bias: .*\('0.bias', new, rows=...\)$"):
        optimizer.step()
    optimizer.replace("0.bias", new[1], rows=ROWS["prune"])
    for weight in new:
        weight.grad = torch.ones_like(weight)
    before_step = new[0].detach().clone()
    optimizer.step()
    assert not torch.equal(new[0], before_step)


def test_a_weight_that_was_cut_in_place_is_told_and_cured() -> None:
    net, optimizer = trained("adamw")
    momentum = optimizer.state[net[2].weight]["momentum"].clone()
    net[2].weight.data = net[2].weight.data[ROWS["prune"]]
    net[2].weight.grad = torch.ones(3, 8)
    words = r"2.weight has shape \(3, 8\) now, and its state was kept for \(8, 8\): .*rows=...\)$"
    with pytest.raises(ValueError, match=words):
        optimizer.step()
    optimizer.replace("2.weight", net[2].weight, rows=ROWS["prune"])
    optimizer.step()
    share = 0.1 / (1 - 0.9**4)  # of the fourth gradient in Adam's unbiased average
    expected = momentum[ROWS["prune"]].lerp(torch.ones(3, 8), share)
    torch.testing.assert_close(optimizer.state[net[2].weight]["momentum"], expected)


@pytest.mark.parametrize(("recipe", "seen"), [("kfac", 1), ("newton_muon", 4)])
def test_what_a_layer_shows_goes_on(recipe: str, seen: int) -> None:
    """Factors of inputs alone do not depend on rows; those of outputs begin again, with both."""
    net = network()[:1]
    optimizer = RECIPES[recipe](net, **({"every": 1} if recipe == "newton_muon" else {}))

    def go_on() -> None:
        optimizer.zero_grad()
        with optimizer.sampled():
            net(torch.randn(4, 6)).square().mean().backward()
        net(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        go_on()
    new, before = nn.Parameter(torch.randn(10, 6)), snapshot(optimizer)
    with pytest.raises(ValueError, match=r"the model has another 0.weight, .*: put the new tensor"):
        optimizer.replace("0.weight", new, rows=ROWS["grow"])
    assert_unchanged(optimizer, before)
    bias = nn.Parameter(torch.zeros(10))
    net[0].weight, net[0].bias = new, bias
    optimizer.replace("0.weight", new, rows=ROWS["grow"])
    optimizer.replace("0.bias", bias, rows=ROWS["grow"])
    go_on()
    assert float(optimizer.state[new]["seen_inputs"]) == seen
    assert float(optimizer.state[new].get("step", 4)) == 4


def test_a_weight_made_from_its_state_takes_the_new_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net, optimizer = trained("poet", block=4)
    new = nn.Parameter(torch.randn(8, 8))
    with caplog.at_level(logging.WARNING):
        optimizer.replace(net[2].weight, new)
    assert "2.weight is made again from its state, all of which starts anew" in caplog.text
    net[2].weight = new
    before = new.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    go_on(net, optimizer, 7)
    torch.testing.assert_close(new.detach(), before)


REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "shape": (
        "0.weight",
        torch.ones(9, 6),
        None,
        r"shape \(8, 6\) and .* \(9, 6\): say which rows",
    ),
    "columns": ("0.weight", torch.ones(8, 7), [0] * 8, r"dims behind the first are the same$"),
    "few rows": ("0.weight", torch.ones(9, 6), [0], r"are 9 whole numbers from -1 to 7, one for"),
    "far row": ("0.weight", torch.ones(1, 6), [8], r"1 whole numbers from -1 to 7, .*; got \[8\]$"),
    "mask": ("0.weight", torch.ones(1, 6), [True], r"got \[True\]$"),
    "fractions": ("0.weight", torch.ones(1, 6), torch.ones(1), r"whole numbers"),
    "no rows": ("0.weight", torch.ones(8, 6), 3, r"whole numbers .*; got 3$"),
    "unknown": ("0.wieght", torch.ones(8, 6), None, r"'0.wieght' is no weight .* 0.weight"),
    "foreign": (torch.ones(8, 6), torch.ones(8, 6), None, r"^this tensor is no weight of this op"),
    "no tensor": ("0.weight", 3, None, r"takes the place of 0.weight has to be a tensor; got 3$"),
    "frozen": ("0.weight", torch.ones(8, 6), "frozen", r"to be trained: requires_grad_\(True\)$"),
    "no leaf": ("0.weight", torch.ones(8, 6), "no leaf", r"to be a leaf, such as torch.nn.Parame"),
    "complex": ("0.weight", torch.ones(8, 6) + 1j, None, r"has real values; got one complex64$"),
    "no values": (
        "0.weight",
        torch.ones(8, 6, device="meta"),
        None,
        r"got one on the meta device$",
    ),
    "its own": ("0.weight", "2.weight", None, r"0.weight is 2.weight, which is a weight of the o"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_changes(kind: str) -> None:
    net, optimizer = trained("adamw")
    before = snapshot(optimizer)
    old, new, rows, words = REFUSED[kind]
    if isinstance(new, Tensor) and rows != "frozen":
        new = nn.Parameter(new)
    if rows == "no leaf":
        new = new * 2
    new = net.get_parameter(new) if isinstance(new, str) else new
    with pytest.raises(ValueError, match=words) as error:
        optimizer.replace(old, new, rows=None if isinstance(rows, str) else rows)
    assert "\n" not in str(error.value)
    assert_unchanged(optimizer, before)


def test_a_geometry_that_the_new_shape_cannot_bear_is_refused() -> None:
    net = modula.declare(network(), {"0.weight": KyFan(5), "2.weight": Stiefel()})
    optimizer = SteepestDescent(net)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"^0.weight: .*5"):
        optimizer.replace("0.weight", nn.Parameter(torch.randn(3, 6)), rows=ROWS["prune"])
    assert_unchanged(optimizer, before)
    new = nn.Parameter(torch.randn(10, 8))
    optimizer.replace("2.weight", new, rows=ROWS["grow"])
    assert float(Stiefel().residual(new.detach())) < 1e-3
