"""Named optimizers against the packages that define them, and against published numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_runs import Make, assert_same_run

import modula
from modula.kernels.spectral.polynomials import JORDAN, YOU6
from modula.recipes import RECIPES


def test_adamw_is_torchs_adamw_for_1000_steps() -> None:
    assert_same_run(
        lambda net: modula.recipes.adamw(net, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1),
        lambda net: torch.optim.AdamW(
            net.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1
        ),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_torchs_sgd_for_1000_steps(momentum: float, nesterov: bool) -> None:
    assert_same_run(
        lambda net: modula.recipes.sgd(net, 0.05, momentum=momentum, nesterov=nesterov),
        lambda net: torch.optim.SGD(net.parameters(), 0.05, momentum=momentum, nesterov=nesterov),
        rtol=1e-9,
        atol=1e-12,
    )


class Lion(torch.optim.Optimizer):
    """The paper's algorithm 2, as a loop: the oracle."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * 0.1).sub_(group["lr"] * (0.9 * m + 0.1 * p.grad).sign())
                m.mul_(0.99).add_(p.grad, alpha=0.01)


def test_lion_is_the_papers_loop() -> None:
    assert_same_run(
        lambda net: modula.recipes.lion(net, 1e-3, weight_decay=0.1),
        lambda net: Lion(net.parameters(), 1e-3),
        steps=200,
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_is_torchs_muon_for_1000_steps(adjust: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its polynomial, and both in float64: torch's rounds to bfloat16, which this undoes."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda x: x.clone())
    monkeypatch.setattr("modula.kernels.spectral.polar.DEFAULT", JORDAN)
    assert_same_run(
        lambda net: modula.recipes.muon(net, 0.01, scale=adjust, weight_decay=0.1),
        lambda net: torch.optim.Muon(net.parameters(), 0.01, weight_decay=0.1, adjust_lr_fn=adjust),
        bias=False,
        rtol=1e-4,
        atol=1e-6,
    )


def backward(loss: Tensor) -> float:
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("name", [*RECIPES])
def test_every_recipe_learns_on_a_plain_and_on_a_normed_network(name: str) -> None:
    for net in (
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)),
        modula.Linear(4, 16) @ modula.ReLU() @ modula.Linear(16, 8),
    ):
        torch.manual_seed(0)
        for weight in net.parameters():
            nn.init.normal_(weight, std=0.3)
        x = torch.randn(64, 8)
        target = x[:, :4].tanh()
        optimizer = RECIPES[name](net)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            parts = list(zip(x.chunk(2), target.chunk(2), strict=True))
            found = [backward((net(x) - y).square().mean() / 2) for x, y in parts]
            optimizer.step()
            losses.append(sum(found))
        assert losses[-1] < losses[0]
        assert {row.name for row in optimizer.plan.rows} == dict(net.named_parameters()).keys()


def test_hello_world_follows_the_published_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLP on random targets, as in the code of arXiv:2410.21265 and with its polynomials."""
    published = [0.979311, 0.001822, 0.001423, 0.001066]
    monkeypatch.setattr("modula.kernels.spectral.polar.DEFAULT", YOU6)
    torch.manual_seed(0)
    x, y = torch.randn(128, 784), torch.randn(128, 10)
    net = modula.MLP(10, 256, 256, 784)
    optimizer = modula.recipes.modular(net, 0.1, momentum=0.0)
    assert [row.budget for row in optimizer.plan.rows] == pytest.approx([1 / 3] * 3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 1000)
    found = []
    for step in range(301):
        loss = (net(x) - y).square().mean()
        if step % 100 == 0:
            found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx(published, rel=0.2)


def agd_network(second: Tensor | None) -> tuple[nn.Module, list[Tensor]]:
    g = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    if second is not None:
        net.append(nn.Linear(2, 3, bias=False))
    gradients = [g] if second is None else [g, second]
    for weight, gradient in zip(net.parameters(), gradients, strict=True):
        weight.grad = gradient
    return net, gradients


@pytest.mark.parametrize(
    ("second", "eta"),
    [(None, 1.164945), (torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 0.0]]), 1.210855)],
    ids=["one layer", "two layers"],
)
def test_agd_takes_the_published_step(second: Tensor | None, eta: float) -> None:
    net, gradients = agd_network(second)
    before = [weight.detach().clone() for weight in net.parameters()]
    optimizer = modula.recipes.agd(net)
    optimizer.step()
    assert optimizer.last_lr == pytest.approx(eta, abs=1e-6)
    for weight, start, g in zip(net.parameters(), before, gradients, strict=True):
        scale = (g.shape[0] / g.shape[1]) ** 0.5 / len(gradients)
        torch.testing.assert_close(start - weight, eta * scale * g / g.norm())


def test_scion_never_leaves_its_balls() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False))
    optimizer = modula.recipes.scion(net, lr=0.1, radius=3.0)
    for _ in range(100):
        for weight in net.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    for weight in net.parameters():
        assert modula.norms.RMSToRMS()(weight.detach()) <= 3.0 * 1.15  # of the polar factor
    modula.recipes.scion(net, lr=1.0)
    modula.recipes.scion(net, lr=1.5, constrained=False)


def test_lr_of_muon_is_the_norm_of_its_step() -> None:
    net = nn.Linear(8, 32, bias=False)
    before = net.weight.detach().clone()
    optimizer = modula.recipes.muon(net, lr=0.02)
    net(torch.randn(64, 8)).square().mean().backward()
    optimizer.step()
    length = modula.norms.RMSToRMS()(before - net.weight.detach())
    assert float(length) == pytest.approx(0.02, rel=0.15)


def test_an_embedding_row_without_gradient_does_not_move() -> None:
    net = nn.Embedding(5, 4)
    before = net.weight.detach().clone()
    optimizer = modula.recipes.modular(net, 0.1)
    F.mse_loss(net(torch.tensor([1, 3])), torch.zeros(2, 4)).backward()
    optimizer.step()
    moved = (net.weight.detach() != before).any(1)
    assert moved.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda net: modula.recipes.muon(net, scale="rms_norm"), "scale is one of rms, original"),
        (lambda net: modula.recipes.muon(net, lr=-1), "lr must be zero or positive"),
        (lambda net: modula.recipes.adamw(net, weight_decay=-1), "weight_decay must be zero"),
        (lambda net: modula.recipes.sign(net, momentum=1.0), r"momentum coefficient .*\[0, 1\)"),
        (lambda net: modula.recipes.automatic(net, radius=0), "radius must be positive"),
        (lambda net: modula.recipes.scion(net, radius=-1), "radii must be positive"),
        (lambda net: modula.recipes.scion(net, lr=1.5), "lr=1.5 would leave the balls"),
        (lambda net: modula.recipes.adamw(net, betas=(0.9, 1.0)), "0 <= beta < 1"),
        (lambda net: modula.SteepestDescent(net, on_nonfinite="ignore"), '"raise" or "skip"'),
        (lambda net: modula.Automatic(gain=0), "positive gain"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(
    make: Callable[[nn.Module], Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        make(nn.Linear(3, 3))
    assert "\n" not in str(error.value)


def test_clipping_is_sharp_below_rho_and_unit_above() -> None:
    """G = [[3, 4], [0, 5]] has the dual norm 4 sqrt(5) under the spectral norm (SVD: exact)."""
    g = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    for rho, length in ((5.0, 5.0), (10.0, 4 * 5**0.5)):
        net = nn.Linear(2, 2, bias=False)
        before = net.weight.detach().clone()
        net.weight.grad = g.clone()
        optimizer = modula.recipes.clipped(net, 0.1, rho=rho, momentum=0.0)
        optimizer.step()
        assert optimizer.last_lr == pytest.approx(0.1 * length, rel=0.07)
        moved = modula.norms.RMSToRMS()(before - net.weight.detach())
        assert float(moved) == pytest.approx(0.1 * length, rel=0.14)


def test_clipping_converges_where_a_fixed_step_stalls() -> None:
    def distance(make: Make) -> float:
        torch.manual_seed(0)
        net = nn.Linear(4, 4, bias=False)
        optimizer = make(net)
        for _ in range(300):
            optimizer.zero_grad()
            net.weight.square().sum().backward()
            optimizer.step()
        return float(net.weight.detach().norm())

    fixed = distance(lambda net: modula.recipes.modular(net, 0.1, momentum=0.0))
    clipped = distance(lambda net: modula.recipes.clipped(net, 0.1, rho=1.0, momentum=0.0))
    assert fixed > 1e-2
    assert clipped < 1e-4


def test_clipping_and_automatic_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="both set the length of the step"):
        modula.SteepestDescent(
            nn.Linear(2, 2), modula.Automatic(), potential=modula.duality.Clip(1.0)
        )
