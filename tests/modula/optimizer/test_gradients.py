"""A gradient whose square overflows is left out where squares are averaged; training goes on."""

import logging

import pytest
import torch
import torch.nn.functional as F
from gradients import fill_gradients
from snapshots import assert_unchanged, snapshot
from torch import Tensor, nn

import modula
from modula import NonFiniteGradient, SteepestDescent
from modula.duality import Declaration, Graft, Setting, Sharp
from modula.duality.program.names import SAMPLED
from modula.norms import L2, Diagonal
from modula.optimizer.gradients import squares_are_finite
from modula.recipes import RECIPES
from modula.statistics import sampled_labels

HUGE = 1e25


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def data(seed: int, count: int = 16) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def train(
    optimizer: modula.SteepestDescent,
    net: nn.Module,
    seed: int,
    scale: float = 1.0,
    sampled: float | None = None,
) -> None:
    """A step of classification, with all passes that a metric may ask for, losses times `scale`."""
    torch.manual_seed(seed)  # what perturbed() draws
    optimizer.zero_grad()
    with optimizer.perturbed():
        for part in data(seed).chunk(2):
            (scale * F.cross_entropy(net(part), part[:, :3].argmax(-1)) / 2).backward()
    if optimizer.asks_for(*SAMPLED):
        scale = scale if sampled is None else sampled
        with optimizer.sampled():
            for part in data(seed).chunk(2):
                logits = net(part)
                (scale * F.cross_entropy(logits, sampled_labels(logits)) / 2).backward()
    optimizer.step()


def loss_of(net: nn.Module) -> float:
    x = data(99, 256)
    return F.cross_entropy(net(x), x[:, :3].argmax(-1)).item()


def copies(tensors: list[Tensor]) -> list[Tensor]:
    return [x.detach().clone() for x in tensors]


def assert_finite(optimizer: modula.SteepestDescent, net: nn.Module) -> None:
    assert all(weight.isfinite().all() for weight in net.parameters())
    for state in optimizer.state.values():
        for name, value in state.items():
            assert value.isfinite().all(), name


@pytest.mark.parametrize(("before", "after"), [(0, 10), (3, 50)])
@pytest.mark.parametrize("name", [*RECIPES])
def test_training_goes_on(
    name: str, before: int, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    net = network()
    optimizer = RECIPES[name](net)
    for seed in range(before):
        train(optimizer, net, seed)
    declared = optimizer._own.all
    weights = [each.weight for each in declared if each.declaration.has_metric]
    start, kept = loss_of(net), copies(weights)
    caplog.clear()
    train(optimizer, net, 100, HUGE)
    assert_finite(optimizer, net)
    assert all(map(torch.equal, weights, kept))
    assert ("too large to be squared" in caplog.text) == bool(weights)
    for seed in range(200, 200 + after):
        train(optimizer, net, seed)
    assert_finite(optimizer, net)
    kept = copies(weights)
    train(optimizer, net, 300)
    assert not any(map(torch.equal, weights, kept))
    if len(weights) == len([*net.parameters()]):  # else momenta follow the huge one for long
        assert loss_of(net) < start


@pytest.mark.parametrize("name", ["sophia", "bias_corrected_sophia", "kfac", "ekfac"])
def test_a_huge_gradient_at_sampled_labels_is_no_sample(name: str) -> None:
    net = network()
    optimizer = RECIPES[name](net)
    train(optimizer, net, 0, sampled=HUGE)
    assert_finite(optimizer, net)
    before = loss_of(net)
    for seed in range(1, 50):
        train(optimizer, net, seed)
    assert_finite(optimizer, net)
    assert loss_of(net) < before


def test_weights_without_a_metric_take_the_step() -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    before = copies([*net.parameters()])
    train(optimizer, net, 0, HUGE)
    moved = [not torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True)]
    assert moved == [True, False, True, False]  # weights by Muon, biases by AdamW
    assert optimizer.skipped == 0


def test_a_graft_has_a_metric() -> None:
    plain = Setting(L2(2))
    adam = Setting(L2(2), metric=Diagonal(), potential=Sharp())
    assert not Declaration(plain, scalers=(Graft(plain),)).has_metric
    assert Declaration(plain, scalers=(Graft(adam),)).has_metric
    assert Declaration(adam).has_metric


@pytest.mark.parametrize(
    ("value", "dtype", "fine"),
    [
        (1e18, torch.float32, True),
        (1e20, torch.float32, False),
        (6e4, torch.float16, True),
        (1e18, torch.bfloat16, True),
        (1e20, torch.bfloat16, False),
        (1e100, torch.float64, True),
        (1e200, torch.float64, False),
        (float("nan"), torch.float32, False),
        (-float("inf"), torch.float16, False),
    ],
)
def test_squares_are_taken_in_the_precision_of_state(
    value: float, dtype: torch.dtype, fine: bool
) -> None:
    x = torch.full((2, 2), value, dtype=dtype)
    others = [torch.zeros(0), torch.ones(3, dtype=torch.float64), torch.ones((), dtype=dtype)]
    assert squares_are_finite([*others, x]) == fine


def test_the_weights_that_are_left_out_are_named(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    optimizer = modula.recipes.adamw(net)
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)
    net[2].weight.grad *= HUGE
    before = copies([*net.parameters()])
    with caplog.at_level(logging.WARNING):
        optimizer.step()
    assert caplog.messages == [
        "too large to be squared or kept, and so left out of the step until it is smaller: "
        "the gradient of 2.weight"
    ]
    moved = [not torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True)]
    assert moved == [True, True, False, True]


def test_a_gradient_that_stays_huge_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    optimizer = modula.recipes.adamw(net)
    for huge in ([2], [2], [0, 2], [0, 2], [], [2]):
        for weight in net.parameters():
            weight.grad = torch.ones_like(weight)
        for layer in huge:
            net[layer].weight.grad *= HUGE
        optimizer.step()
    told = [message.rpartition("gradient of ")[2] for message in caplog.messages]
    assert told == ["2.weight", "0.weight", "2.weight"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["muon", "adamw", "automatic"])
def test_a_non_finite_gradient_raises_before_anything_changes(name: str, bad: float) -> None:
    net = network()
    optimizer = RECIPES[name](net)
    fill_gradients(net, 0)
    optimizer.step()
    net[2].weight.grad[0, 0] = bad
    before = snapshot(optimizer)
    with pytest.raises(NonFiniteGradient, match=r"gradient of 2\.weight is not finite"):
        optimizer.step()
    assert_unchanged(optimizer, before)


def test_skipping_non_finite_steps_counts_them() -> None:
    net = network()
    optimizer = SteepestDescent(net, on_nonfinite="skip")
    fill_gradients(net, 0)
    net[0].bias.grad[0] = float("nan")
    before = snapshot(optimizer)
    optimizer.step()
    assert_unchanged(optimizer, before)
    assert optimizer.skipped == 1


def test_a_sum_that_overflows_is_not_a_non_finite_gradient() -> None:
    net = network()
    optimizer = SteepestDescent(net)
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, 3e38)
    optimizer.step()
    assert all(weight.isfinite().all() for weight in net.parameters())


def directly(optimizer: modula.SteepestDescent, net: nn.Module, seed: int, scale: float) -> None:
    """A step along normal gradients, of which the first entry of each weight is `scale` times."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer.zero_grad()
    for context in (optimizer.perturbed, optimizer.sampled):
        if context == optimizer.sampled and not optimizer.asks_for(*SAMPLED):
            continue
        with context():
            for _ in range(2):
                drawn = [torch.randn(w.shape, generator=generator).to(w) for w in net.parameters()]
                for x in drawn:
                    x.view(-1)[0] *= scale
                first = net(data(seed).to(drawn[0].dtype)).sum() * 0
                pairs = zip(net.parameters(), drawn, strict=True)
                sum(((w * x).sum() for w, x in pairs), first).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float64, 1e19),
        (torch.float64, 1e30),
        (torch.float64, 1e150),
        (torch.float32, 1e30),
        (torch.bfloat16, 1e37),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        *("ivon", "bias_corrected_adamw", "bias_corrected_sophia", "adamw", "muon", "sign", "lion"),
        *("normuon", "adamuon", "adagrad", "manifold_muon", "unit_condition", "kfac", "soap"),
    ],
)
def test_state_of_fewer_digits_stays_finite(name: str, dtype: torch.dtype, scale: float) -> None:
    net = network().to(dtype)
    optimizer = RECIPES[name](net, state_dtype=torch.bfloat16)
    directly(optimizer, net, 0, 1.0)
    directly(optimizer, net, 1, scale)
    assert_finite(optimizer, net)
    directly(optimizer, net, 2, 1.0)
    assert_finite(optimizer, net)


@pytest.mark.parametrize("name", ["adamw", "sign"])
def test_what_has_no_room_in_the_state_is_left_out(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = network().double()
    optimizer = RECIPES[name](net, state_dtype=torch.bfloat16)
    directly(optimizer, net, 0, 1.0)
    before = snapshot(optimizer)
    directly(optimizer, net, 1, 1e38)
    assert_unchanged(optimizer, before)
    assert "too large to be squared or kept" in caplog.text
    assert optimizer.skipped == 0


@pytest.mark.parametrize(
    ("value", "fine"), [(1e18, True), (1.8e19, True), (1.9e19, False), (1e30, False)]
)
def test_squares_are_finite_in_the_precision_of_state(value: float, fine: bool) -> None:
    x = torch.tensor([value], dtype=torch.float64)
    assert squares_are_finite([x], torch.bfloat16) == fine
    assert squares_are_finite([x])
