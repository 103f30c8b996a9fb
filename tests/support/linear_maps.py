"""Linear maps of every kind, on weights of one shape."""

import torch
from torch import Tensor

from modula.norms import LinearChain, LinearMap
from modula.norms.blocks import BlockView
from modula.norms.maps.linear import Along, Elementwise, Inverse, OnBlocks, Rotation, Transposed
from modula.norms.maps.structured import AlongBlocks, LowRankScaled, Spiked

SHAPE = (6, 4)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def invertible(n: int, seed: int) -> Tensor:
    return draw(n, n, seed=seed) / n + torch.eye(n, dtype=torch.float64)


def basis(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(n, n, seed=seed))[0]


def every_map(seed: int) -> list[LinearMap]:
    rows, columns = Along(invertible(6, seed), -2), Along(invertible(4, seed + 1), -1)
    scale = Elementwise(draw(*SHAPE, seed=seed).exp())
    rotation = Rotation(basis(4, seed), -1)
    blocks = BlockView("(b m) n -> b m n", (("b", 2),))
    inner = Along(torch.stack([invertible(3, seed), invertible(3, seed + 2)]), -2)
    return [
        rows,
        columns,
        AlongBlocks(inner.matrix, -2),
        Spiked(draw(3, seed=seed).exp(), basis(6, seed)[:, :2], -2),
        Spiked(draw(2, seed=seed).exp(), basis(4, seed)[:, :1], -1),
        AlongBlocks(torch.stack([invertible(2, seed), invertible(2, seed + 3)]), -1),
        scale,
        rotation,
        Inverse(rows),
        OnBlocks(inner, blocks),
        LinearChain((rotation, scale, Inverse(rows), columns)),
        Transposed(rows),
        LowRankScaled(scale.scale, draw(24, 2, seed=seed) / 24, draw(24, 2, seed=seed + 1)),
    ]
