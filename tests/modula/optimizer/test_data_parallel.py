"""Metrics of a layer's data where two processes with half a batch each average gradients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

import modula
from modula import SteepestDescent
from modula.recipes import RECIPES
from tests.support.processes import in_two_processes, needs_fork

RECIPES_OF_LAYERS: dict[str, dict[str, Any]] = {
    "kfac": {},
    "ekfac": {},
    "foof": {"every": 1, "sample_every": 1},
    "newton_muon": {"every": 1},
    "newton_muon_sandwich": {"every": 1},
    "sophia": {"rho": 10.0},
    "bias_corrected_adamw": {},
    "bias_corrected_sophia": {"rho": 10.0},
    "bias_corrected_shampoo": {"every": 1},
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steps(optimizer: SteepestDescent, part: slice) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Points, labels, and labels for the passes at labels drawn: of this process's part."""
    for step in range(5):
        optimizer.zero_grad()
        labels = draw(2, 16, 3, seed=step + 1000).argmax(-1)
        yield draw(16, 6, seed=step)[part], labels[0, part], labels[1, part]
        optimizer.step()


def train(model: nn.Module, optimizer: SteepestDescent, part: slice) -> None:
    """In two microbatches, of which each process has its part."""
    for x, y, drawn in steps(optimizer, part):
        for k in (0, 1):
            (F.cross_entropy(model(x[k::2]), y[k::2]) / 2).backward()
        with optimizer.sampled():
            for k in (0, 1):
                (F.cross_entropy(model(x[k::2]), drawn[k::2]) / 2).backward()


def half(rank: int) -> slice:
    return slice(8 * rank, 8 * rank + 8)


def weights(net: nn.Module) -> list[Tensor]:
    return [weight.detach() for weight in net.parameters()]


def by_wrapper(name: str, rank: int) -> list[Tensor]:
    """The optimizer is given the wrapper, whose gradients are parts of buckets."""
    net = network()
    parallel = DistributedDataParallel(net, gradient_as_bucket_view=True)
    train(parallel, RECIPES[name](parallel, 0.01, **RECIPES_OF_LAYERS[name]), half(rank))
    return weights(net)


def by_group(name: str, rank: int) -> list[Tensor]:
    """The optimizer is given the network that is wrapped later, and the processes."""
    net, options = network(), RECIPES_OF_LAYERS[name]
    optimizer = RECIPES[name](net, 0.01, process_group=dist.group.WORLD, **options)
    train(DistributedDataParallel(net), optimizer, half(rank))
    return weights(net)


@needs_fork
@pytest.mark.parametrize("name", RECIPES_OF_LAYERS)
def test_two_processes_take_the_step_of_one_with_the_whole_batch(tmp_path: Path, name: str) -> None:
    """O37."""
    net = network()
    train(net, RECIPES[name](net, 0.01, **RECIPES_OF_LAYERS[name]), slice(16))
    first, second = in_two_processes(
        tmp_path, lambda rank: (by_wrapper(name, rank), by_group(name, rank))
    )
    assert_close(first, second, rtol=0, atol=0)
    for found in first:
        assert_close(found, weights(net), rtol=1e-7, atol=1e-10)


@needs_fork
def test_state_is_rounded_alike_in_processes_that_draw_differently(tmp_path: Path) -> None:
    def run(rank: int) -> list[Tensor]:
        net = network().float()
        parallel = DistributedDataParallel(net)
        optimizer = modula.recipes.muon(parallel, state_dtype=torch.bfloat16)
        torch.manual_seed(rank)
        for x, y, _ in steps(optimizer, half(rank)):
            F.cross_entropy(parallel(x.float()), y).backward()
        return weights(net)

    first, second = in_two_processes(tmp_path, run)
    assert_close(first, second, rtol=0, atol=0)


def unsaid(rank: int) -> None:
    net = network()
    optimizer = modula.recipes.foof(net)
    net(draw(8, 6, seed=rank)).square().mean().backward()
    with pytest.raises(RuntimeError, match="of 0.weight are of one of 2 processes, whose weights"):
        optimizer.step()
    assert_close(weights(net), weights(network()), rtol=0, atol=0)


@needs_fork
def test_whether_processes_belong_together_is_not_guessed(tmp_path: Path) -> None:
    in_two_processes(tmp_path, unsaid)


@needs_fork
def test_processes_may_be_on_their_own(tmp_path: Path) -> None:
    def run(rank: int) -> list[Tensor]:
        net = network()
        own = dist.new_group([rank], use_local_synchronization=True)
        train(net, modula.recipes.kfac(net, process_group=own), half(rank))
        return weights(net)

    for rank, found in enumerate(in_two_processes(tmp_path, run)):
        net = network()
        train(net, modula.recipes.kfac(net), half(rank))
        assert_close(found, weights(net))
