"""lion against its paper."""

from typing import Any

import torch
from training_runs import assert_same_run

import modula


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
