"""Compose a network from normed parts; mass and sensitivity decide how far each weight moves.

python examples/02_network_from_parts.py      # the budgets of four networks, as a table
"""

import torch
from rich.console import Console
from rich.table import Table

import modula
from modula import Identity, Linear, ReLU


def networks() -> dict[str, modula.Module]:
    """Four networks of the same width, differently put together."""
    depth = 3
    block = Linear(16, 16) @ ReLU() @ Linear(16, 16)
    residual = (1 - 1 / depth) * Identity() + (1 / depth) * block
    return {
        "chain": Linear(4, 16) @ ReLU() @ Linear(16, 16) @ ReLU() @ Linear(16, 8),
        "chain, the head learns twice": Linear(4, 16).tare(2.0) @ ReLU() @ Linear(16, 8),
        "half of a chain": 0.5 * (Linear(4, 16) @ ReLU() @ Linear(16, 8)),
        "residual, 3 blocks": Linear(4, 16) @ residual**depth @ Linear(16, 8),
    }


def main(steps: int = 200) -> float:
    """Print the table and train the residual network; returns its last loss."""
    torch.manual_seed(0)
    table = Table("network", "mass", "sensitivity", "weight", "budget", title="Modular budgets")
    for name, net in networks().items():
        rows = list(net.budgets().items())
        first, *rest = [(weight, f"{budget:.4g}") for weight, budget in rows]
        table.add_row(name, f"{net.mass:g}", f"{net.sensitivity:.4g}", *first)
        for weight, budget in rest:
            table.add_row("", "", "", weight, budget)
        table.add_section()

    net = networks()["residual, 3 blocks"]
    optimizer = modula.SteepestDescent(net, lr=0.1)
    x = torch.randn(512, 8)
    target = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), x[:, 3].sin(), x[:, 4]], 1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / steps)
        loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    Console(width=100).print(table, f"residual network: loss {loss.item():.4f} after {steps} steps")
    return loss.item()


if __name__ == "__main__":
    main()
