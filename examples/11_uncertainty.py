"""Weights that know how sure they are: IVON on a small regression, with predictive bands.

python examples/11_uncertainty.py      # writes 11_uncertainty.png; where it is sure, in a table
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import modula

NOISE = 0.1
PRIOR = {"ess": 80.0, "prior": 1 / 80, "first": 10.0}  # before any data, every weight is N(0, 1)


def train(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> modula.SteepestDescent:
    """IVON: every gradient is taken at weights drawn from the posterior so far."""
    optimizer = modula.recipes.ivon(net, lr=0.1, betas=(0.9, 0.999), clip=1.0, **PRIOR)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / steps) / 10)
    for _ in range(steps):
        with optimizer.perturbed():
            optimizer.zero_grad()
            ((net(x) - y).square().mean() / (2 * NOISE**2)).backward()
        optimizer.step()
        decay.step()
    return optimizer


def main(steps: int = 3000) -> float:
    """Draw the bands: wide in the gap, too narrow beyond the data; returns the mean error."""
    torch.set_num_threads(1)  # small matrices: threads would wait for each other
    torch.manual_seed(0)
    x = torch.rand(80, 1) * 0.6 + torch.tensor([[-1.0], [0.4]]).repeat(40, 1)
    grid = torch.linspace(-1.5, 1.5, 151)
    y, truth = (torch.normal(torch.sin(3 * p), s) for p, s in ((x, NOISE), (grid, 0.0)))
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer, drawn = train(net, x, y, steps), torch.zeros(200, 151)
    for k in range(200):
        with optimizer.perturbed(), torch.no_grad():
            drawn[k] = net(grid[:, None])[:, 0]
    center, band = drawn.mean(0), drawn.std(0)
    plt.fill_between(grid, center - 2 * band, center + 2 * band, alpha=0.3)
    plt.plot(grid, center, "tab:blue", grid, truth, "k--", x, y, "k.")
    plt.title("200 networks drawn: their mean, two deviations; dashed: the truth")
    plt.savefig("11_uncertainty.png", dpi=150)
    for place, low in {"data": -1.0, "gap": -0.3, "data again": 0.4, "beyond": 1.1}.items():
        at, error = (grid >= low) & (grid <= low + 0.6), (center - truth).abs()
        print(f"{place:>10}: off by {error[at].mean():.3f}, one deviation {band[at].mean():.3f}")
    print("11_uncertainty.png")
    return error.mean().item()


if __name__ == "__main__":
    main()
