"""A small network that learns from the microbatches of a step."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

PARTS, DECAY, LR = 4, 0.1, 0.02


class Words(nn.Module):
    """Three classes of pairs of words."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(9, 3)
        self.inner = nn.Linear(6, 4)
        self.head = nn.Linear(4, 3, bias=False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.table(x).flatten(1)).tanh())


def batches(steps: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """A list of microbatches a step."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randint(9, (PARTS, 5, 2), generator=generator)
        yield list(zip(x, x.sum(-1) % 3, strict=True))


def losses(net: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    """Of each microbatch, as a part of the mean."""
    return (F.cross_entropy(net(x), y) / len(parts) for x, y in parts)


def backward(net: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> None:
    for loss in losses(net, parts):
        loss.backward()


def other_labels(parts: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """In the place of labels drawn from the network."""
    return [(x, (y + x[:, 0]) % 3) for x, y in parts]


def own_gradients(net: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The gradient of each microbatch's own mean loss, (M, *shape), by autograd alone."""
    weights = dict(net.named_parameters())
    means = [len(parts) * loss for loss in losses(net, parts)]
    columns = zip(*(torch.autograd.grad(mean, [*weights.values()]) for mean in means), strict=True)
    return {name: torch.stack(gs) for name, gs in zip(weights, columns, strict=True)}


def assert_same_weights(net: nn.Module, twin: nn.Module, rtol: float = 1e-9) -> None:
    for (name, mine), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert_close(mine, other, rtol=rtol, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def moved(net: nn.Module, start: nn.Module) -> float:
    pairs = zip(net.parameters(), start.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)
