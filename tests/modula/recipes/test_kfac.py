"""Recipes that look at layers or at sampled labels: what they see, and what follows."""

import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stepping import draw
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula import SteepestDescent
from modula.norms import Absolute, Damping, Exact, LayerMoments, Relative
from modula.recipes import RECIPES
from modula.statistics import (
    cross_entropy_gauss_newton_backward,
    mse_gauss_newton_backward,
    sampled_labels,
)

OURS = ("kfac", "ekfac", "foof", "newton_muon", "newton_muon_sandwich", "sophia")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def train(net: nn.Module, optimizer: SteepestDescent, steps: range, every: int = 1) -> None:
    """Classification of random points, with a pass at sampled labels every so many steps."""
    for step in steps:
        x, y = draw(16, 6, seed=step), draw(16, 3, seed=step + 1000).argmax(-1)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        if step % every == 0:
            with optimizer.sampled():
                logits = net(x)
                labels = sampled_labels(logits, torch.Generator().manual_seed(step))
                F.cross_entropy(logits, labels).backward()
        optimizer.step()


def test_one_step_of_foof_solves_least_squares() -> None:
    """O22, through the whole optimizer."""
    x, y = draw(40, 5), draw(40, 3, seed=1)
    net = nn.Linear(5, 3, bias=False).double()
    optimizer = modula.recipes.foof(net, 1.0, momentum=0, damping=Relative(0), instant=True)
    ((net(x) - y).square().sum(-1) / 2).mean().backward()
    optimizer.step()
    assert_close(net.weight.detach().mT, torch.linalg.lstsq(x, y).solution)


@pytest.mark.parametrize("damping", [Absolute(0), Exact(0)], ids=str)
def test_one_step_of_kfac_with_the_exact_gauss_newton_does_too(damping: Damping) -> None:
    x, y = draw(40, 5), draw(40, 3, seed=1)
    net = nn.Linear(5, 3, bias=False).double()
    optimizer = modula.recipes.kfac(net, 1.0, momentum=0, damping=damping)
    F.mse_loss(net(x), y).backward()
    with optimizer.sampled():
        mse_gauss_newton_backward(net(x))
    optimizer.step()
    assert_close(net.weight.detach().mT, torch.linalg.lstsq(x, y).solution)


def test_the_factors_of_one_datum_are_the_exact_block_of_the_gauss_newton() -> None:
    """O23: B x A is J^T H J, for each layer of a network."""
    net, x = network(), draw(1, 6)
    optimizer = modula.recipes.kfac(net)
    net(x).sum().backward()
    with optimizer.sampled():
        cross_entropy_gauss_newton_backward(net(x))
    net_weights = dict(net.named_parameters())
    expected = {}
    for name in ("0.weight", "2.weight"):

        def outputs(weight: Tensor, name: str = name) -> Tensor:
            return torch.func.functional_call(net, {**net_weights, name: weight}, (x,))[0]

        weight = net_weights[name].detach()
        jacobian = torch.autograd.functional.jacobian(outputs, weight).flatten(1)
        p = outputs(weight).detach().softmax(0)
        expected[name] = jacobian.mT @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    optimizer.step()
    for name, block in expected.items():
        state = optimizer.state[net_weights[name]]
        assert_close(torch.kron(state["factor_outputs"], state["factor_inputs"]), block)


def moment_of_errors(logits: Tensor, label: int) -> Tensor:
    """E[e e^T] of cross entropies whose every label is this one."""
    e = logits.softmax(-1)
    e[:, label] -= 1
    return e.mT @ e / len(e)


def test_the_fisher_is_of_sampled_passes_alone() -> None:
    net, x = network(), draw(8, 6)
    fisher = modula.recipes.kfac(net)
    errors = [moment_of_errors(net(x).detach(), label) for label in (0, 1)]
    assert fisher.asks_for("sampled_output_moment", "input_moment")
    assert not fisher.asks_for("output_moment", "input_moment")
    F.cross_entropy(net(x), torch.zeros(8, dtype=torch.long)).backward()
    before = [weight.grad.clone() for weight in net.parameters()]
    with fisher.sampled():
        F.cross_entropy(net(x), torch.ones(8, dtype=torch.long)).backward()
    for weight, gradient in zip(net.parameters(), before, strict=True):
        assert torch.equal(weight.grad, gradient)
    fisher.step()
    assert_close(fisher.state[net[2].weight]["factor_outputs"], errors[1])


def test_without_sampling_kfac_reads_the_training_loss_alone() -> None:
    net, x = network(), draw(8, 6)
    optimizer = modula.recipes.kfac(net, sampled=False)
    expected = moment_of_errors(net(x).detach(), 0)
    F.cross_entropy(net(x), torch.zeros(8, dtype=torch.long)).backward()
    with optimizer.sampled():
        F.cross_entropy(net(x), torch.ones(8, dtype=torch.long)).backward()
    optimizer.step()
    assert_close(optimizer.state[net[2].weight]["factor_outputs"], expected)


@pytest.mark.parametrize("name", ["kfac", "ekfac", "foof", "newton_muon_sandwich"])
def test_accumulated_gradients_make_the_step_of_the_whole_batch(name: str) -> None:
    options = {"sampled": False} if "kfac" in name else {}
    found = []
    for parts in (1, 4):
        net = network()
        optimizer = RECIPES[name](net, 0.01, **options)
        for step in range(3):
            x, y = draw(16, 6, seed=step), draw(16, 3, seed=9).argmax(-1)
            optimizer.zero_grad()
            for chunk in torch.arange(16).chunk(parts):
                (F.cross_entropy(net(x[chunk]), y[chunk]) / parts).backward()
            optimizer.step()
        found.append([weight.detach() for weight in net.parameters()])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["kfac", "ekfac", "sophia"])
def test_passes_at_sampled_labels_accumulate_too(name: str) -> None:
    found = []
    for parts in (1, 4):
        net = network()
        optimizer = RECIPES[name](net, 0.01)
        x, y = draw(16, 6), draw(16, 3, seed=9).argmax(-1)
        for chunk in torch.arange(16).chunk(parts):
            (F.cross_entropy(net(x[chunk]), y[chunk]) / parts).backward()
            with optimizer.sampled():
                (F.cross_entropy(net(x[chunk]), torch.ones_like(y[chunk])) / parts).backward()
        optimizer.step()
        found.append([weight.detach() for weight in net.parameters()])
    for a, b in zip(*found, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", OURS)
def test_a_resumed_run_is_bit_identical_with_all_its_statistics(name: str) -> None:
    options = {"every": 4} if name != "sophia" else {}
    net = network()
    optimizer = RECIPES[name](net, 0.01, **options)
    train(net, optimizer, range(7), every=2)
    file = io.BytesIO()
    torch.save((net.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    twin = network()
    twin.load_state_dict(saved[0])
    resumed = RECIPES[name](twin, 0.01, **options)
    resumed.load_state_dict(saved[1])
    for each, owner in ((optimizer, net), (resumed, twin)):
        train(owner, each, range(7, 13), every=2)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, resumed.state[b][key]), key


@pytest.mark.parametrize("name", ["kfac", "foof", "newton_muon_sandwich"])
def test_the_metric_takes_part_in_the_step(name: str) -> None:
    """Against the same optimizer whose network shows it nothing."""
    ends = []
    for shown in (True, False):
        net = network()
        optimizer = RECIPES[name](net, 0.01)
        if not shown:
            optimizer.watch(network())
        train(net, optimizer, range(4))
        ends.append(net[0].weight.detach() - network()[0].weight.detach())
    assert (ends[0] - ends[1]).norm() > 0.05 * ends[1].norm()


class Conv1D(nn.Module):
    """As in transformers: the weight is stored (in, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().mT.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class AsConvolution(nn.Module):
    """A linear map of 2 x 3 images of two channels, as a convolution with one position."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, linear.weight.shape[0], (2, 3), bias=False).double()
        self.conv.weight.data.copy_(linear.weight.detach().reshape(self.conv.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.reshape(-1, 1, 2, 3)).flatten(1)


@pytest.mark.parametrize("make", [Conv1D, AsConvolution])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kfac", {"every": 1, "sampled": False}),
        ("ekfac", {"every": 1, "sampled": False}),
        ("foof", {"every": 1, "instant": True}),
        ("singd", {}),
    ],
)
def test_a_layer_learns_alike_however_its_weight_is_stored(
    name: str, options: dict[str, Any], make: Callable[[nn.Linear], nn.Module]
) -> None:
    linear = nn.Linear(6, 6, bias=False).double()
    nets = [nn.Sequential(make(linear), nn.Tanh()), nn.Sequential(linear, nn.Tanh())]
    for net in nets:
        optimizer = RECIPES[name](net, 0.02, **options)
        for step in range(3):
            optimizer.zero_grad()
            F.mse_loss(net(draw(16, 6, seed=step)), draw(16, 6, seed=99)).backward()
            optimizer.step()
    here, there = (next(net.parameters()).detach() for net in nets)
    assert_close(here.mT if make is Conv1D else here.flatten(1), there)


def test_a_weight_whose_layer_cannot_be_seen_is_refused() -> None:
    net = nn.Sequential(nn.MultiheadAttention(4, 2))
    for name in ("kfac", "newton_muon"):
        with pytest.raises(
            ValueError, match=r"0\.in_proj_weight cannot be seen: .*declare this map"
        ):
            RECIPES[name](net)


def test_a_network_shows_only_what_the_next_step_reads() -> None:
    net = network()
    optimizer = modula.recipes.foof(net, sample_every=10)
    looks = []
    for step in range(24):
        optimizer.zero_grad()
        net(draw(4, 6, seed=step)).square().mean().backward()
        assert optimizer._statistics is not None
        assert optimizer._statistics._collector is not None
        looks.append(len(optimizer._statistics._collector._accumulators))
        optimizer.step()
    assert [step + 1 for step in range(24) if looks[step]] == [1, 2, 4, 5, 8, 10, 15, 20]
    assert optimizer.state[net[0].weight]["seen_inputs"] == 6
    assert looks[:3] == [2, 2, 0]


def test_without_a_pass_at_sampled_labels_it_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    optimizer = modula.recipes.kfac(net)
    with caplog.at_level(logging.WARNING):
        train(net, optimizer, range(1, 4), every=5)
        train(net, modula.recipes.sophia(net), range(2))
    assert caplog.text.count("passes inside optimizer.sampled() show") == 1


def test_recipes_say_what_they_are() -> None:
    names = ["KFAC", "EKFAC", "FOOF", "Newton-Muon", "Newton-Muon as a sandwich", "Sophia"]
    found = [RECIPES[name](network()).plan["0.weight"].known_as for name in OURS]
    assert found == names
    assert str(LayerMoments(outputs="")) == "LayerMoments(outputs='')"
