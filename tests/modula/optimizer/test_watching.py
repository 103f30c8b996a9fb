"""Hooks of an optimizer: replaced by a later one's, gone with a dropped one, in no copy."""

import copy
import gc
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modula
from modula import SteepestDescent
from modula.recipes import RECIPES

WATCHING = ("kfac", "newton_muon", "ivon", "bias_corrected_adamw", "ekfac", "foof")


class Net(nn.Sequential):
    """Two layers; a class of this module, so that it can be pickled."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def hooks_of(model: nn.Module) -> int:
    """How many hooks there are, on modules and weights."""
    of_modules = sum(
        len(value)
        for module in model.modules()
        for name, value in vars(module).items()
        if "hooks" in name and isinstance(value, OrderedDict)
    )
    return of_modules + sum(len(w._backward_hooks or {}) for w in model.parameters())


def traces(model: nn.Module) -> int:
    return hooks_of(model) + sum("__getstate__" in vars(module) for module in model.modules())


def train(optimizer: SteepestDescent, net: nn.Module, seed: int = 0) -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    torch.manual_seed(seed)
    with optimizer.perturbed():
        for part in x.chunk(2):
            (net(part).square().mean() / 2).backward()
    if optimizer.asks_for(*modula.duality.program.names.SAMPLED):
        with optimizer.sampled():
            net(x).square().mean().backward()
    optimizer.step()


def weights(net: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]


@pytest.mark.parametrize("name", WATCHING)
def test_a_dropped_optimizers_hooks_go_with_it(name: str) -> None:
    net = Net()
    optimizer = RECIPES[name](net)
    train(optimizer, net)
    assert traces(net)
    del optimizer
    gc.collect()
    assert not traces(net)


@pytest.mark.parametrize("name", WATCHING)
@pytest.mark.parametrize("kept", [False, True])
def test_a_later_optimizer_replaces_the_hooks(name: str, kept: bool) -> None:
    net, alone = Net(), Net()
    first = [RECIPES[name](net)]
    count = traces(net)
    for _ in range(5):
        first.append(RECIPES[name](net))
        del first[: 0 if kept else -1]
    gc.collect()
    assert traces(net) == count
    other = RECIPES[name](alone)
    for seed in range(2):
        train(first[-1], net, seed)
        train(other, alone, seed)
    assert all(map(torch.equal, weights(net), weights(alone)))


def test_the_earlier_one_is_told_in_a_sentence_and_can_take_the_hooks_back() -> None:
    net = Net()
    first, second = RECIPES["kfac"](net), RECIPES["newton_muon"](net)
    before = weights(net)
    with pytest.raises(RuntimeError, match=r"call optimizer.watch\(model\) on this one before"):
        train(first, net)
    assert all(map(torch.equal, weights(net), before))
    first.watch(net)
    train(first, net)
    with pytest.raises(RuntimeError, match="measures their layers now"):
        train(second, net)
    second.watch(net)
    train(second, net)


def test_two_that_watch_other_layers_both_work() -> None:
    net, alone = Net(), Net()
    pairs = []
    for model in (net, alone):
        pairs.append([RECIPES["kfac"](nn.Sequential(model[0])), RECIPES["kfac"](model[2])])
    pairs[1][1].watch(alone[2])
    for own, model in zip(pairs, (net, alone), strict=True):
        for each in own:
            each.zero_grad()
        for each in own:
            with each.sampled():
                model(torch.ones(4, 6)).square().mean().backward()
        model(torch.ones(4, 6)).square().mean().backward()
        for each in own:
            each.step()
    assert all(map(torch.equal, weights(net), weights(alone)))
    assert not any(map(torch.equal, weights(net), weights(Net())))


def test_one_that_reads_gradients_alone_takes_nothing() -> None:
    net = Net()
    first = RECIPES["kfac"](net)
    RECIPES["muon"](net)
    train(first, net)


def saved(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: list[Callable[[nn.Module], Any]] = [
    copy.deepcopy,
    saved,
    lambda model: pickle.loads(pickle.dumps(model)),
]


@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "save", "pickle"])
@pytest.mark.parametrize("name", WATCHING)
def test_a_copy_of_the_model_has_no_hooks_of_ours_and_all_others(
    name: str, copied: Callable[[nn.Module], Any]
) -> None:
    net = Net()
    handle = net[0].register_forward_hook(print_nothing)
    optimizer = RECIPES[name](net)
    other = copied(net)
    assert traces(other) == 1  # the user's own
    loss = net(torch.ones(4, 6)).square().mean()
    measured = optimizer._statistics
    assert measured is not None
    other(torch.ones(4, 6)).square().mean().backward()  # shows the optimizer nothing
    assert measured._collector is not None
    assert not measured._collector._accumulators
    loss.backward()
    handle.remove()
    train(optimizer, net)  # the original goes on
    del optimizer, measured
    gc.collect()
    assert not traces(net)


def print_nothing(*_: object) -> None:
    """A hook of the user."""
