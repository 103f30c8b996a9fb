"""Train without a learning rate: it is computed from the dual norm of the momentum.

python examples/04_no_learning_rate.py      # writes 04_no_learning_rate.png
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import modula


def train(width: int, steps: int, lr: float | None) -> tuple[list[float], list[float]]:
    """Losses and step lengths of an MLP of this width; lr=None leaves the length to Automatic."""
    torch.manual_seed(0)
    x = torch.randn(1024, 32)
    labels = (x @ torch.randn(32, 10)).argmax(1)
    net = modula.MLP(10, width, width, 32)
    make = modula.recipes
    optimizer = make.automatic(net) if lr is None else make.adamw(net, lr)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    losses, lengths = [], []
    for step in range(steps):
        batch = torch.arange(128) + 128 * (step % 8)
        loss = F.cross_entropy(net(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
        lengths.append(optimizer.last_lr)
    return losses, lengths


def main(steps: int = 150) -> float:
    """Draw widths 32 to 256 with no learning rate, and AdamW at one; returns the widest's loss."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for width in (32, 96, 256):
        losses, lengths = train(width, steps, None)
        axes[0].semilogy(losses, label=f"width {width}")
        axes[1].plot(lengths, label=f"width {width}")
        axes[2].semilogy(train(width, steps, 1e-2)[0], label=f"width {width}")
    for axis, title in zip(
        axes, ("loss, no learning rate", "the length it chose", "loss, AdamW at 0.01"), strict=True
    ):
        axis.set(title=title, xlabel="step")
        axis.legend()
    axes[0].sharey(axes[2])
    figure.savefig("04_no_learning_rate.png", dpi=150)
    plt.close(figure)
    print(f"04_no_learning_rate.png; width 256 ends at {losses[-1]:.4f}")
    return losses[-1]


if __name__ == "__main__":
    main()
