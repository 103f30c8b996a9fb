"""Weights that know how sure they are: IVON on a small regression, with predictive bands.

python examples/11_uncertainty.py      # writes 11_uncertainty.png; where it is sure, in a table
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from modula.kernels.apply import step, unbiased_average
from modula.kernels.ivon import perturb, positive_average, posterior_direction, stein_hessian

NOISE, PRIOR = 0.1, {"ess": 80.0, "delta": 1 / 80}  # before any data, every weight is N(0, 1)


def train(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Means of all weights in one vector, and h: their precisions are ess (h + delta)."""
    mean = parameters_to_vector(net.parameters()).detach()
    h, momentum, delta = torch.full_like(mean, 10.0), torch.zeros_like(mean), PRIOR["delta"]
    for k in range(steps):
        noise = torch.randn_like(mean)
        vector_to_parameters(perturb(mean, noise, h, **PRIOR), net.parameters())
        loss = (net(x) - y).square().mean() / (2 * NOISE**2)
        gradient = parameters_to_vector(torch.autograd.grad(loss, list(net.parameters())))
        h = positive_average(h, stein_hessian(gradient, noise, h, **PRIOR), beta=0.999, delta=delta)
        momentum = unbiased_average(momentum, gradient, torch.tensor(k + 1.0), beta=0.9)
        direction = posterior_direction(momentum, mean, h, delta=delta, clip=1.0)
        mean = step(mean, direction, torch.tensor(0.1 * (1 - k / steps)))
    return mean, h


def main(steps: int = 3000) -> float:
    """Draw the bands: wide in the gap, too narrow beyond the data; returns the mean error."""
    torch.set_num_threads(1)  # small matrices: threads would wait for each other
    torch.manual_seed(0)
    x = torch.rand(80, 1) * 0.6 + torch.tensor([[-1.0], [0.4]]).repeat(40, 1)
    grid = torch.linspace(-1.5, 1.5, 151)
    y, truth = (torch.normal(torch.sin(3 * p), s) for p, s in ((x, NOISE), (grid, 0.0)))
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    mean, h = train(net, x, y, steps)
    drawn = torch.zeros(200, 151)
    for k in range(200):
        vector_to_parameters(perturb(mean, torch.randn_like(mean), h, **PRIOR), net.parameters())
        drawn[k] = net(grid[:, None])[:, 0].detach()
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
