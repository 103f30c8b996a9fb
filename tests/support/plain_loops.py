"""Optimizers of papers as plain loops, and networks whose matrices are all for one recipe."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import modula

EXACT = {"rtol": 1e-9, "atol": 1e-12}
Direction = Callable[[Tensor, dict[str, Any], int], Tensor]


class Loop(torch.optim.Optimizer):
    """w <- w - lr direction(gradient, the weight's own state, step): papers as plain loops."""

    def __init__(self, net: nn.Module, lr: float, direction: Direction) -> None:
        super().__init__(net.parameters(), {"lr": lr})
        self.direction = direction

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                state["step"], state["weight"] = state.get("step", 0) + 1, weight
                weight.sub_(group["lr"] * self.direction(weight.grad, state, state["step"]))


def hidden(net: nn.Module) -> nn.Module:
    """All matrices of the network are for the recipe's own group."""
    for name in ("0", "2"):
        modula.declare(net, {f"{name}.weight": modula.norms.RMSToRMS()})
    return net


def inverse_root(x: Tensor, power: float, damping: float) -> Tensor:
    """(x / c + damping I)^-power, times c^-power, with c the mean eigenvalue of x."""
    mean = x.trace() / len(x)
    values, basis = torch.linalg.eigh(x / mean)
    return mean**-power * (basis * (values.clamp(min=0) + damping) ** -power) @ basis.mT
