"""Random gradients, sent back as a training step would."""

import torch
from torch import nn


def fill_gradients(net: nn.Module, seed: int, scale: float = 1.0, microbatches: int = 2) -> None:
    """A normal gradient for each weight: the mean of as many of them as there are microbatches.

    net  reads as many features as its first weight has columns
    """
    generator = torch.Generator().manual_seed(seed)
    weights = list(net.parameters())
    net.zero_grad()
    for _ in range(microbatches):
        with torch.no_grad():
            net(torch.zeros(1, weights[0].shape[-1], dtype=weights[0].dtype))  # begins one
        drawn = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
        loss = sum(((w * x).sum() for w, x in zip(weights, drawn, strict=True)), torch.zeros(()))
        (scale / microbatches**0.5 * loss).backward()
