"""The decay of AdamS: one number of the whole network stands between directions and steps."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import (
    Declaration,
    Scheduled,
    Setting,
    Sharp,
    Unbiased,
)
from modula.kernels.elementwise.decay import scheduled_decay
from modula.norms import L2, Diagonal, Kronecker, Metric
from modula.optimizer.steepest_descent import Group
from modula.recipes import adamw, kl_shampoo, sgd

LR, RATE, BETAS, EPS = 0.05, 0.3, (0.9, 0.99), 1e-8
SHAPES = {"matrix": (3, 5), "vector": (2,)}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.ParameterDict:
    weights = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}
    return modula.declare(
        nn.ParameterDict(weights), {name: L2(len(SHAPES[name])) for name in SHAPES}
    )


def gradients(step: int) -> list[Tensor]:
    """Of very different sizes, which change: only their common mean square decays."""
    return [0.1 * draw(3, 5, seed=100 + step), (5 + step) * draw(2, seed=200 + step)]


def naive(weights: list[Tensor], steps: int) -> list[Tensor]:
    """AdamS as published, over a list of weights."""
    weights = [w.clone() for w in weights]
    means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for t in range(1, steps + 1):
        for i, g in enumerate(gradients(t)):
            means[i] = BETAS[0] * means[i] + (1 - BETAS[0]) * g
            squares[i] = BETAS[1] * squares[i] + (1 - BETAS[1]) * g**2
        hats = [v / (1 - BETAS[1] ** t) for v in squares]
        root = torch.cat([v.flatten() for v in hats]).mean().sqrt()
        for i, w in enumerate(weights):
            step = means[i] / (1 - BETAS[0] ** t) / (hats[i].sqrt() + EPS)
            weights[i] = (1 - LR * RATE / root) * w - LR * step
    return weights


def step(
    net: nn.ParameterDict, optimizer: modula.SteepestDescent, given: Sequence[Tensor | None]
) -> None:
    for weight, gradient in zip(net.values(), given, strict=True):
        weight.grad = gradient
    optimizer.step()


def adams(net: nn.ParameterDict) -> modula.SteepestDescent:
    return adamw(net, LR, betas=BETAS, eps=EPS, weight_decay=Scheduled(RATE))


def test_twenty_steps_are_those_of_the_published_loop() -> None:
    net = network()
    optimizer = adams(net)
    expected = naive([w.detach() for w in net.values()], 20)
    for t in range(1, 21):
        step(net, optimizer, gradients(t))
    assert_close([w.detach() for w in net.values()], expected, rtol=1e-12, atol=1e-12)
    assert optimizer.last_lr == LR


def test_the_mean_is_of_the_whole_network_whatever_the_groups() -> None:
    net, split = network(), network()
    setting = {
        name: Setting(L2(len(shape)), metric=Diagonal(), potential=Sharp(), momentum=Unbiased(0.9))
        for name, shape in SHAPES.items()
    }
    declared = {
        name: Declaration(each, weight_decay=Scheduled(RATE)) for name, each in setting.items()
    }
    one = modula.SteepestDescent(net, LR, groups=[Group(declared)])
    two = modula.SteepestDescent(split, LR, groups=[Group({n: d}) for n, d in declared.items()])
    for t in range(1, 5):
        step(net, one, gradients(t))
        step(split, two, gradients(t))
    for a, b in zip(net.values(), split.values(), strict=True):
        assert_close(a, b, rtol=1e-12, atol=0)


def test_a_resumed_run_goes_on_bit_by_bit() -> None:
    net = network()
    optimizer = adams(net)
    for t in range(1, 6):
        step(net, optimizer, gradients(t))
    other = network()
    other.load_state_dict(net.state_dict())
    resumed = adams(other)
    resumed.load_state_dict(optimizer.state_dict())
    for t in range(6, 9):
        step(net, optimizer, gradients(t))
        step(other, resumed, gradients(t))
    for a, b in zip(net.values(), other.values(), strict=True):
        assert torch.equal(a, b)


def test_without_gradients_nothing_decays_and_nothing_is_nan() -> None:
    net = network()
    optimizer = adams(net)
    before = [w.detach().clone() for w in net.values()]
    for _ in range(2):
        step(net, optimizer, [torch.zeros(3, 5).double(), torch.zeros(2).double()])
    for a, b in zip(net.values(), before, strict=True):
        assert torch.equal(a.detach(), b)


def test_a_weight_without_gradient_stays_and_is_not_in_the_mean() -> None:
    net, alone = network(), network()
    optimizer, single = adams(net), adams(alone)
    step(net, optimizer, gradients(1))
    step(alone, single, gradients(1))
    vector = net["vector"].detach().clone()
    step(net, optimizer, [gradients(2)[0], None])
    assert torch.equal(net["vector"].detach(), vector)
    square = optimizer.state[net["matrix"]]["square"]
    momentum = optimizer.state[net["matrix"]]["momentum"]
    shrunk = (1 - LR * RATE / square.mean().sqrt()) * alone["matrix"].detach()
    assert_close(net["matrix"].detach(), shrunk - LR * momentum / (square.sqrt() + EPS))


def test_no_weight_is_carried_past_zero() -> None:
    """A gradient of 1e-9 asks for a decay of 1.5e7: the weight goes, and does not come back."""
    weight, lr = draw(3, seed=0), torch.tensor(LR, dtype=torch.float64)
    tiny = torch.tensor(1e-18, dtype=torch.float64)
    assert torch.equal(scheduled_decay(weight, lr, tiny, rate=RATE), torch.zeros(3).double())
    [listed] = scheduled_decay.foreach([weight.clone()], lr, tiny, rate=RATE, scale=[1e-9])
    assert_close(listed, (1 - 1e-9 * LR * RATE / 1e-9) * weight)


def test_it_goes_with_a_length_that_nobody_chose() -> None:
    """Both are numbers of the whole network, and lr is what the length made of it."""
    net = network()
    modula.declare(net, {name: L2(len(s)).under(Diagonal()) for name, s in SHAPES.items()})
    before = net["matrix"].detach().clone()
    optimizer = modula.SteepestDescent(net, modula.Automatic(), weight_decay=Scheduled(RATE))
    given = gradients(1)
    step(net, optimizer, given)
    root = torch.cat([g.flatten() ** 2 for g in given]).mean().sqrt()
    direction = given[0] / given[0].abs().add(EPS)
    moved = (1 - optimizer.last_lr * RATE / root) * before - net["matrix"].detach()
    assert_close(moved / moved.norm(), direction / direction.norm())


@pytest.mark.parametrize("metric", [None, Kronecker(), Diagonal(power=1.0)], ids=str)
def test_where_adam_keeps_no_moment_it_is_refused(metric: Metric | None) -> None:
    with pytest.raises(ValueError, match="root of Adam's second moment"):
        Declaration(Setting(L2(2), metric=metric, potential=Sharp()), weight_decay=Scheduled(0.1))
    for recipe in (sgd, kl_shampoo):
        with pytest.raises(ValueError, match=r"or use Decoupled\(0.1\)"):
            recipe(nn.Linear(3, 3), weight_decay=Scheduled(0.1))
