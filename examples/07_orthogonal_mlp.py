"""A small network on handwritten digits, its weights free or held on a manifold.

python examples/07_orthogonal_mlp.py      # writes 07_orthogonal_mlp.png; needs scikit-learn
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import modula

NAMES = "muon", "manifold_muon", "unit_condition", "hypersphere"
SHARPER = 8  # orthogonal weights lengthen nothing: without it logits stay as small as pixels


def train(name: str, steps: int) -> tuple[list[float], torch.Tensor]:
    """Accuracy on held-out digits, and the singular values of the middle weight, every 10 steps."""
    digits = load_digits()
    x, labels = torch.tensor(digits.data).float() / 8 - 1, torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, rest = order[:400], order[400:]
    torch.manual_seed(0)
    hidden = nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
    net = nn.Sequential(*hidden, nn.Linear(64, 10))
    optimizer = modula.recipes.RECIPES[name](net, lr=0.05)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    accuracy, values = [], []
    for step in range(steps):
        batch = rest[torch.randint(len(rest), (128,))]
        optimizer.zero_grad()
        F.cross_entropy(SHARPER * net(x[batch]), labels[batch]).backward()
        optimizer.step()
        decay.step()
        if step % 10 == 0 or step == steps - 1:
            accuracy.append((net(x[test]).argmax(1) == labels[test]).float().mean().item())
            values.append(torch.linalg.svdvals(net[2].weight.detach()))
    return accuracy, torch.stack(values)


def main(steps: int = 80) -> float:
    """Draw accuracy and singular values of all four; returns the last one's accuracy."""
    torch.set_num_threads(1)  # small matrices: threads would wait for each other
    figure, axes = plt.subplots(1, 5, figsize=(16, 3.4), layout="constrained")
    for axis, name in zip(axes[1:], NAMES, strict=True):
        accuracy, values = train(name, steps)
        axes[0].plot(accuracy, label=f"{name}: {accuracy[-1]:.1%}")
        axis.plot(values, color="tab:blue", alpha=0.4, linewidth=0.8)
        axis.set(title=f"singular values, {name}", xlabel="tens of steps", ylim=(0, 5))
        print(f"{name}: {accuracy[-1]:.1%} of 400 held-out digits")
    axes[0].set(title="accuracy", xlabel="tens of steps", ylim=(0.4, 1))
    axes[0].legend(loc="lower right")
    figure.savefig("07_orthogonal_mlp.png", dpi=150)
    return accuracy[-1]


if __name__ == "__main__":
    main()
