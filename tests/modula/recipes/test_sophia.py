"""Sophia against its paper, as a plain loop."""

import torch
import torch.nn.functional as F
from stepping import draw
from torch import Tensor, nn
from torch.testing import assert_close

import modula


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Sophia:
    """The paper's algorithm 3 with the Gauss-Newton-Bartlett estimator, as a loop: the oracle."""

    def __init__(self, net: nn.Module, lr: float, terms: int, rho: float) -> None:
        self.weights, self.lr, self.terms, self.rho = list(net.parameters()), lr, terms, rho
        self.m = [torch.zeros_like(w) for w in self.weights]
        self.h = [torch.zeros_like(w) for w in self.weights]

    @torch.no_grad()
    def step(self, sampled: list[Tensor] | None) -> None:
        for i, w in enumerate(self.weights):
            assert w.grad is not None
            self.m[i] = 0.965 * self.m[i] + 0.035 * w.grad
            if sampled is not None:
                self.h[i] = 0.99 * self.h[i] + 0.01 * self.terms * sampled[i] ** 2
            ratio = self.m[i] / (self.rho * self.h[i] + 1e-15)
            w.mul_(1 - self.lr * 0.1).sub_(self.lr * ratio.clamp(-1, 1))


def test_sophia_is_the_papers_loop() -> None:
    """O17: and some entries are cut off, others not."""
    ours, theirs = network(), network()
    optimizer = modula.recipes.sophia(ours, 0.01, terms=16, rho=10.0)
    oracle = Sophia(theirs, 0.01, 16, 10.0)
    for step in range(25):
        x, y = draw(16, 6, seed=step), draw(16, 3, seed=step + 50).argmax(-1)
        drawn = draw(16, 3, seed=step + 100).argmax(-1)
        optimizer.zero_grad()
        F.cross_entropy(ours(x), y).backward()
        sampled = None
        if step % 10 == 0:
            with optimizer.sampled():
                F.cross_entropy(ours(x), drawn).backward()
            loss = F.cross_entropy(theirs(x), drawn)
            sampled = list(torch.autograd.grad(loss, oracle.weights))
        optimizer.step()
        for weight in theirs.parameters():
            weight.grad = None
        F.cross_entropy(theirs(x), y).backward()
        oracle.step(sampled)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(a.detach(), b.detach())
    parts = zip(oracle.m, oracle.h, strict=True)
    share = torch.cat([(m.abs() < 10 * h).flatten() for m, h in parts]).double().mean()
    assert 0.1 < share < 0.9
