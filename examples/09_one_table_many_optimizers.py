"""One table, many optimizers: each a norm, a metric and a potential, each with a path of its own.
python examples/09_one_table_many_optimizers.py      # writes 09_one_table_many_optimizers.png"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import modula

RATES = {"sgd": 0.1, "sign": 0.05, "lion": 0.02, "adam": 0.1, "adagrad": 0.5, "muon": 0.1}
RATES |= {"kl_shampoo": 0.1, "soap": 0.1, "psgd_pro": 0.1}
SLOPE = torch.tensor([[0.87, -1.8], [0.50, 3.1]])  # of the quadratic |w SLOPE|^2 / 2
BLOCKS = {"a kind of curvature for each block": [[1, 2, 3], [99, 100, 101], [4998, 4999, 5000]]}
BLOCKS |= {"every kind in each block": [[1, 99, 4998], [2, 100, 4999], [3, 101, 5000]]}
GRID = {"sgd": (1e-5, 2e-5), "sign": (4e-3, 1e-2), "adam": (0.01, 0.1)}  # the best are in it
LONG = {"sgd": {"momentum": 0.95}, "sign": {}, "adam": {"betas": (0.95, 0.95)}}


def descend(name: str, lr: float, data: Tensor, batch: int, steps: int, **options) -> Tensor:
    """Points on |w data|^2 / 2 from w = (1, 1, ...), seen `batch` of its columns at a time."""
    torch.manual_seed(0)
    net = nn.Linear(len(data), 1, bias=False)
    nn.init.ones_(net.weight)
    optimizer = modula.recipes.RECIPES[name](net, lr, **options)
    points = [net.weight.detach()[0].clone()]
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(20 * (k + 1) / steps, 1 - k / steps)
        columns = data[:, torch.randperm(data.shape[1])[:batch]]
        net.weight.grad = net.weight.detach() @ columns @ columns.T * data.shape[1] / batch
        optimizer.step()
        points.append(net.weight.detach()[0].clone())
    return torch.stack(points)


def main(steps: int = 100) -> None:
    """Draw nine paths, and what two quadratics of equal curvatures make of three optimizers."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    grid = torch.cartesian_prod(torch.linspace(-0.6, 1.2, 90), torch.linspace(-0.5, 1.1, 90))
    axes[0].tricontour(*grid.T, (grid @ SLOPE).norm(dim=-1), 14, colors="0.85", linewidths=0.8)
    for name, lr in RATES.items():
        points = descend(name, lr, SLOPE, 2, steps)
        axes[0].plot(*points.T, ".-", lw=1, ms=3, alpha=0.7, label=name)
    for axis, (title, blocks) in zip(axes[1:], BLOCKS.items(), strict=True):
        turns = [torch.linalg.qr(torch.randn(3, 3))[0] * torch.tensor(b).sqrt() for b in blocks]
        data = torch.block_diag(*turns)
        for name, rates in GRID.items():
            runs = [descend(name, lr, data, 3, 5 * steps, **LONG[name]) for lr in rates]
            losses = min(((run @ data).square().sum(1) / 2 for run in runs), key=lambda x: x[-1])
            axis.semilogy(losses, lw=1, label=name)
            print(f"{title:36} {name:5} {losses[-1]:.3g}")
        axis.set(title=title, xlabel="step", ylim=(1e-4, 1e5))
    axes[0].set(title="nine optimizers on one quadratic")
    [axis.legend(fontsize=8) for axis in axes]
    figure.savefig("09_one_table_many_optimizers.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
