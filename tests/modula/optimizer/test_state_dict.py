"""A saved state goes on bit by bit in an optimizer of the same geometry, and in no other."""

import copy
import io
import logging
import pickle
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from snapshots import assert_unchanged, snapshot
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import modula
from modula import SteepestDescent
from modula.duality import Exact
from modula.optimizer.param_groups import Group, declarations_of
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", [*RECIPES])
def test_a_run_resumed_from_a_file_is_bit_identical(name: str) -> None:
    net = network()
    optimizer = RECIPES[name](net)
    for seed in range(3):
        fill_gradients(net, seed)
        optimizer.step()
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = network()
    other.load_state_dict(saved["net"])
    resumed = RECIPES[name](other)
    resumed.load_state_dict(saved["optimizer"])
    for seed in range(3, 6):
        for each, owner in ((optimizer, net), (resumed, other)):
            fill_gradients(owner, seed)
            each.step()
    assert_unchanged(resumed, snapshot(optimizer))


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_by_themselves(copy_of: Any) -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    fill_gradients(net, 0)
    optimizer.step()
    twin_net, twin = copy_of((net, optimizer))
    for owner in (net, twin_net):
        fill_gradients(owner, 1)
    twin.step()
    before = snapshot(optimizer)
    optimizer.step()
    assert_unchanged(twin, snapshot(optimizer))
    assert not torch.equal(before[0], snapshot(twin)[0])


def test_geometry_is_part_of_a_checkpoint() -> None:
    saved = modula.recipes.muon(network()).state_dict()
    other = modula.recipes.muon(network(), scale="original")
    before = snapshot(other)
    with pytest.raises(ValueError, match=r"0\.weight was saved under RMSToRMS\(\)"):
        other.load_state_dict(saved)
    assert_unchanged(other, before)
    with pytest.raises(ValueError, match=r"0\.weight was saved under RMSToRMS\(\)"):
        modula.recipes.adamw(network()).load_state_dict(saved)


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("muon", "RMSToRMS() Euclidean() None Unit() Average(beta=0.95, nesterov=True) budget 1"),
        ("sgd", "Frobenius() Euclidean() None Sharp() NoMomentum() budget 1"),
        (
            "shampoo",
            "Frobenius() Euclidean() Kronecker(fit=Sum(), memory=Memory(beta=0.99), damping=1e-06) "
            "Sharp() Unbiased(beta=0.9) Graft(setting=Setting(norm=L2(), manifold=Euclidean(), "
            "metric=Diagonal(), potential=Sharp(), momentum=Unbiased(beta=0.9))) budget 1",
        ),
    ],
)
def test_accuracy_is_no_part_of_a_checkpoint(name: str, geometry: str) -> None:
    saved = RECIPES[name](network()).state_dict()
    assert saved["param_groups"][0]["geometry"][0] == geometry
    exact = RECIPES[name](network(), accuracy=Exact())
    exact.load_state_dict(saved)
    assert exact.state_dict()["param_groups"] == saved["param_groups"]


def test_loading_foreign_state_is_refused() -> None:
    net = network()
    foreign = torch.optim.SGD(net.parameters(), 0.1).state_dict()
    with pytest.raises(ValueError, match="was saved under no geometry"):
        modula.recipes.sgd(net).load_state_dict(foreign)


class Wrapper(nn.Module):
    """A network under a name of its own, as in DistributedDataParallel and Lightning."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, inner)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self, self.name)(x)
        return found


WRAPPED = {
    "plain": lambda net: net,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "parallel": lambda net: Wrapper(net, "module"),
    "lightning": lambda net: Wrapper(net, "model"),
    "compiled layer": lambda net: nn.Sequential(torch.compile(net[0], backend="eager"), *net[1:]),
}


def read(net: nn.Module, optimizer: Any, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        with optimizer.sampled():
            net(torch.randn(4, 6, generator=generator)).square().mean().backward()
        net(torch.randn(4, 6, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("recipe", ["newton_muon", "kfac"])
@pytest.mark.parametrize("resumed_as", [*WRAPPED])
@pytest.mark.parametrize("saved_as", ["plain", "parallel"])
def test_a_run_is_resumed_under_a_wrapper_and_goes_on_measuring(
    recipe: str, resumed_as: str, saved_as: str
) -> None:
    net = network()
    optimizer = RECIPES[recipe](WRAPPED[saved_as](net), every=1)
    read(net, optimizer, 2, seed=0)
    other = network()
    other.load_state_dict(net.state_dict())
    resumed = RECIPES[recipe](WRAPPED[resumed_as](other), every=1)
    names = [name for group in resumed.param_groups for name in group["param_names"]]
    resumed.load_state_dict(optimizer.state_dict())
    for each, owner in ((optimizer, net), (resumed, other)):
        read(owner, each, 2, seed=1)
    assert float(resumed.state[other[0].weight]["seen_inputs"]) == 4
    for now, then in zip(other.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)
    for own, then in zip(other.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(resumed.state[own], optimizer.state[then], rtol=0, atol=0)
    assert names == [name for group in resumed.param_groups for name in group["param_names"]]


def in_groups(net: nn.Module, *rows: tuple[list[str], float]) -> SteepestDescent:
    declared = declarations_of(net)
    return SteepestDescent(
        net, groups=[Group({name: declared[name] for name in names}, lr) for names, lr in rows]
    )


def test_layers_and_groups_in_another_order_find_their_state() -> None:
    def layers(order: str) -> nn.ModuleDict:
        return nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in order})

    net, other = layers("abc"), layers("cab")
    optimizer = in_groups(net, (["a.weight", "b.weight"], 0.1), (["c.weight"], 0.2))
    resumed = in_groups(other, (["c.weight"], 0.5), (["b.weight", "a.weight"], 0.5))
    for name in "abc":
        net[name].weight.grad = torch.randn(4, 4)
    optimizer.step()
    optimizer.param_groups[1]["lr"] = 0.3
    resumed.load_state_dict(optimizer.state_dict())
    for name in "abc":
        found = resumed.state[other[name].weight]
        torch.testing.assert_close(found, optimizer.state[net[name].weight], rtol=0, atol=0)
    assert [group["lr"] for group in resumed.param_groups] == [0.3, 0.1]
    assert resumed.param_groups[1]["param_names"] == ["b.weight", "a.weight"]

    apart = in_groups(other, (["a.weight"], 0.1), (["b.weight", "c.weight"], 0.1))
    before = snapshot(apart)
    words = (
        r"^the saved groups are \(a.weight, b.weight\); \(c.weight\), and those of this optimizer"
    )
    with pytest.raises(ValueError, match=words):
        apart.load_state_dict(optimizer.state_dict())
    assert_unchanged(apart, before)
    with pytest.raises(ValueError, match="saved, but not here, a.weight; here, but not saved, d.w"):
        SteepestDescent(layers("dbc")).load_state_dict(optimizer.state_dict())


def test_places_count_only_where_no_names_were_saved() -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    fill_gradients(net, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    for row in saved["param_groups"]:
        del row["param_names"]
    resumed = modula.recipes.muon(network())
    resumed.load_state_dict(saved)
    expected = [x for own in optimizer.state.values() for x in own.values()]
    found = [x for own in resumed.state.values() for x in own.values()]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"groups of \[2, 2\] weights, this optimizer of \[4\]"):
        SteepestDescent(network()).load_state_dict(saved)


def test_states_of_distributed_checkpoints_are_understood() -> None:
    net, other = network(), network()
    optimizer, resumed = modula.recipes.adamw(net), modula.recipes.adamw(other)
    fill_gradients(net, 0)
    optimizer.step()
    set_optimizer_state_dict(other, resumed, get_optimizer_state_dict(net, optimizer))
    for own, then in zip(other.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(resumed.state[own], optimizer.state[then], rtol=0, atol=0)


def test_hooks_see_what_is_loaded() -> None:
    net = network()
    optimizer = modula.recipes.adamw(net)
    fill_gradients(net, 0)
    optimizer.step()
    saved, calls = optimizer.state_dict(), []
    resumed = modula.recipes.adamw(network())

    def halved(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        own = given["state"][0]
        return {**given, "state": {**given["state"], 0: {**own, "momentum": own["momentum"] / 2}}}

    resumed.register_load_state_dict_pre_hook(halved)
    resumed.register_load_state_dict_post_hook(lambda each: calls.append(each is resumed))
    resumed.load_state_dict(saved)
    first = next(iter(resumed.state.values()))
    assert torch.equal(first["momentum"], saved["state"][0]["momentum"] / 2)
    assert calls == [True]


def test_state_goes_from_float32_to_bfloat16_and_back(caplog: pytest.LogCaptureFixture) -> None:
    bf16, net, half = torch.bfloat16, network(), network()
    full, narrow = modula.recipes.adamw(net), modula.recipes.adamw(half, state_dtype=bf16)
    fill_gradients(net, 0)
    full.step()
    with caplog.at_level(logging.WARNING):
        narrow.load_state_dict(full.state_dict())
    words = (
        "state that came in finer was rounded once: momentum of 0.weight to torch.bfloat16, and 7"
    )
    assert [words in record.message for record in caplog.records] == [True]
    for own, then in zip(half.parameters(), net.parameters(), strict=True):
        for name, value in full.state[then].items():
            assert torch.equal(narrow.state[own][name], value.bfloat16() if value.ndim else value)
    fill_gradients(half, 1)
    narrow.step()
    caplog.clear()
    full.load_state_dict(narrow.state_dict())
    assert not caplog.records
    for own, then in zip(half.parameters(), net.parameters(), strict=True):
        for name, value in full.state[then].items():
            assert value.dtype == torch.float32
            assert torch.equal(value, narrow.state[own][name].float())
    double = modula.recipes.adamw(network().double())
    double.load_state_dict(full.state_dict())
    assert not caplog.records
    full.load_state_dict(double.state_dict())
    assert "momentum of 0.weight to torch.float32" in caplog.text


@pytest.mark.parametrize("key", ["weight_decay", "momentum", "lr"])
@pytest.mark.parametrize("name", ["muon", "psgd", "lion", "ivon", "modular"])
def test_roundings_go_on_under_options_that_were_set_later(name: str, key: str) -> None:
    net, other = network(), network()
    optimizer, resumed = (RECIPES[name](each, state_dtype=torch.bfloat16) for each in (net, other))
    for group in optimizer.param_groups:
        if key in group:
            group[key] = 0.1
    for seed in range(3):
        fill_gradients(net, seed)
        optimizer.step()
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    assert_unchanged(resumed, snapshot(optimizer))
    for each, owner in ((optimizer, net), (resumed, other)):
        fill_gradients(owner, 3)
        each.step()
    assert_unchanged(resumed, snapshot(optimizer))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda own: own.pop("square"), r"^0.weight needs saved square of shape \(8, 6\); got \{"),
        (lambda own: own.update(square=torch.ones(6, 8)), r"needs saved square of shape \(8, 6\)"),
        (
            lambda own: own.update(exp_avg=torch.ones(1)),
            r"^0.weight was saved with exp_avg, and keep",
        ),
        (
            lambda own: own.update(square=torch.ones(8, 6) + 1j),
            r"^square of 0.weight holds real num",
        ),
    ],
)
def test_state_that_does_not_fit_is_refused_before_anything_changes(spoil: Any, words: str) -> None:
    saved = modula.recipes.adamw(network()).state_dict()
    saved = {**saved, "state": {i: dict(own) for i, own in saved["state"].items()}}
    optimizer = modula.recipes.adamw(network(), 0.5)
    before = snapshot(optimizer)
    spoil(saved["state"][0])
    with pytest.raises(ValueError, match=words) as error:
        optimizer.load_state_dict(saved)
    assert "\n" not in str(error.value)
    assert_unchanged(optimizer, before)
    assert optimizer.param_groups[0]["lr"] == 0.5


COPIED = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
    "saved whole": lambda pair: through_a_file(pair),
}


def through_a_file(pair: Any) -> Any:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", COPIED)
@pytest.mark.parametrize(
    "options", [{}, {"state_dtype": torch.bfloat16, "certify_every": 2}], ids=str
)
@pytest.mark.parametrize("recipe", ["adamw", "muon", "shampoo", "poet", "automatic"])
def test_a_copy_takes_the_same_next_steps(recipe: str, options: dict[str, Any], how: str) -> None:
    net = network()
    optimizer = RECIPES[recipe](net, **options)
    for seed in range(2):
        fill_gradients(net, seed)
        optimizer.step()
    twin_net, twin = COPIED[how]((net, optimizer))
    assert_unchanged(twin, snapshot(optimizer))
    for seed in (3, 4):
        for each, owner in ((optimizer, net), (twin, twin_net)):
            fill_gradients(owner, seed)
            each.step()
    assert_unchanged(twin, snapshot(optimizer))
    assert twin.last_lr == optimizer.last_lr


def test_a_pickle_holds_each_tensor_once() -> None:
    net = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(20)))
    optimizer = modula.recipes.adamw(net)
    numbers = 3 * 20 * 32 * 32  # of weights, momenta and squares
    assert len(pickle.dumps(optimizer)) < 1.5 * 4 * numbers


def test_a_shallow_copy_shares_weights_and_has_a_state_of_its_own() -> None:
    net = network()
    optimizer = modula.recipes.adamw(net)
    fill_gradients(net, 0)
    optimizer.step()
    twin = copy.copy(optimizer)
    before = {w: {k: x.clone() for k, x in own.items()} for w, own in optimizer.state.items()}
    twin.reset()
    twin.param_groups[0]["lr"] = 0.0
    torch.testing.assert_close(dict(optimizer.state), before, rtol=0, atol=0)
    assert optimizer.param_groups[0]["lr"] > 0
    optimizer.step()
