"""Weights that stay orthogonal: declare the Stiefel manifold, and see what training does.

python examples/03_orthogonal_weights.py      # writes 03_orthogonal_weights.png
"""

import matplotlib.pyplot as plt
import torch

import modula
from modula.manifolds import Euclidean, Stiefel
from modula.norms import RMSToRMS


def train(manifold: object, steps: int) -> tuple[list[float], torch.Tensor]:
    """Losses, and the singular values of the middle weight after every step."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh()
    ).append(torch.nn.Linear(64, 4))
    torch.nn.init.orthogonal_(net[2].weight)
    modula.declare(net, {"2.weight": modula.Geometry(RMSToRMS(), manifold)})
    optimizer = modula.SteepestDescent(net, lr=0.05)
    x = torch.randn(512, 16)
    target = torch.sin(2 * x[:, :4]) * x[:, 4:8]
    losses, values = [], []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        values.append(torch.linalg.svdvals(net[2].weight.detach()))
    return losses, torch.stack(values)


def main(steps: int = 200) -> float:
    """Train free and orthogonal weights, draw both; returns the last loss of the latter."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, manifold in zip(axes[1:], (Euclidean(), Stiefel()), strict=True):
        losses, values = train(manifold, steps)
        axes[0].semilogy(losses, label=str(manifold))
        axis.plot(values, color="tab:blue", alpha=0.4, linewidth=0.8)
        axis.set(title=f"singular values on {manifold}", xlabel="step", ylim=(0, 3))
    axes[0].set(title="loss", xlabel="step")
    axes[0].legend()
    figure.savefig("03_orthogonal_weights.png", dpi=150)
    plt.close(figure)
    print(f"03_orthogonal_weights.png; on Stiefel() the loss is {losses[-1]:.4f}")
    return losses[-1]


if __name__ == "__main__":
    main()
