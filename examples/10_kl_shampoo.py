"""KL-Shampoo whitens: what its two factors see of a gradient, and what is left to see after them.
python examples/10_kl_shampoo.py      # writes 10_kl_shampoo.png"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import modula

RATES = {"adamw": 0.04, "muon": 0.05, "kl_shampoo": 0.08}  # the best of a factor-2 grid


def train(name: str, steps: int) -> tuple[list[float], list[Tensor], modula.SteepestDescent]:
    """Losses, the last gradients of the middle matrix, and the optimizer."""
    torch.manual_seed(0)
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    tanh, last = nn.Tanh(), nn.Linear(64, 10)
    net = nn.Sequential(nn.Linear(64, 64), tanh, nn.Linear(64, 64), tanh, last)
    optimizer = modula.recipes.RECIPES[name](net, RATES[name])
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    losses, gradients = [], []
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        loss = nn.functional.cross_entropy(net(x[batch].float() / 16 - 0.5), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
        gradients.append(net[2].weight.grad.clone())
    return losses, gradients[-40:], optimizer


def spectrum(gradients: list[Tensor]) -> Tensor:
    """Eigenvalues of E[G G^T], the largest first, over their mean."""
    values = torch.linalg.eigvalsh(sum(g @ g.T for g in gradients)).flip(0)
    return values / values.mean()


def main(steps: int = 300) -> None:
    """Draw the losses, and the spectrum of a gradient before and after the factors' roots."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name in RATES:  # KL-Shampoo comes last, and its gradients are looked at
        losses, gradients, optimizer = train(name, steps)
        smooth = torch.tensor(losses).unfold(0, min(20, steps), 1).mean(-1)
        left.semilogy(smooth, label=f"{name}, lr {RATES[name]}")
        print(f"{name:12} loss over the last {min(20, steps)} steps: {smooth[-1]:.5f}")
    roots = [optimizer.state[optimizer.param_groups[0]["params"][1]][f"root_{i}"] for i in (0, 1)]
    right.semilogy(spectrum(gradients), label="of the gradient")
    right.semilogy(spectrum([roots[0] @ g @ roots[1] for g in gradients]), label="of the whitened")
    left.legend(title="training loss, averaged over 20 steps")
    right.legend(title="eigenvalues of E[G G^T], over their mean")
    figure.savefig("10_kl_shampoo.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
