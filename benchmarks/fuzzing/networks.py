"""Tiny random networks, whose gradients are of a wanted kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from random import Random

import torch
from torch import Tensor, nn

import modula
from modula.norms import L2, RMS, Max, Norm

SIZES = (0, 1, 1, 2, 3, 4, 5, 8)
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
SCALES = {  # of the gradient, by its kind
    "normal": 1.0,
    "row": 1.0,  # of the first row alone
    "zero": 0.0,
    "tiny": 1e-30,
    "large": 1e4,
    "vast": 1e30,
    "nan": float("nan"),
    "inf": float("inf"),
}
KINDS = (*SCALES, "none")  # "none": the pass does not meet the weight
USUAL = ("normal", "normal", "normal", "row", "zero", "none", "tiny", "large", "vast")
ROWS = 3  # examples of a pass


class Bare(nn.Module):
    """A parameter of one's own."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(shape))


class Parts(nn.Module):
    """Layers side by side, each with its own input, so that each may be left out of a pass."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, kinds: Mapping[int, str], generator: torch.Generator) -> Tensor:
        """A number whose gradient in each part is of the part's kind."""
        total = torch.zeros((), dtype=torch.float64)
        for place, part in enumerate(self.parts):
            if kinds[place] != "none":
                total = total + _loss(part, kinds[place], generator).double()
        return total


def network(draw: Random) -> Parts:
    """One to four layers or parameters of random shapes and precision, some zero, some frozen."""
    torch.manual_seed(draw.getrandbits(32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of layers of size zero
        parts = [draw.choice(_MAKERS)(draw) for _ in range(draw.choice((1, 1, 2, 3, 4)))]
    model, dtype = Parts(parts), draw.choice(DTYPES)
    mixed = draw.random() < 0.2
    norms: dict[str, Norm] = {}
    for place, part in enumerate(parts):
        part.to(draw.choice(DTYPES) if mixed else dtype)
        if isinstance(part, nn.Embedding) and part.weight.dtype.itemsize < 4:
            part.sparse = False  # autograd does not add sparse gradients of half precision
        if draw.random() < 0.15:
            for weight in part.parameters():
                nn.init.zeros_(weight)
        if isinstance(part, Bare):
            norms[f"parts.{place}.own"] = draw.choice((L2, RMS, Max))(part.own.ndim)
    if len(parts) > 1 and draw.random() < 0.1:
        parts[0].requires_grad_(False)
    return modula.declare(model, norms)


def _loss(part: nn.Module, kind: str, generator: torch.Generator) -> Tensor:
    weights = list(part.parameters())
    dtype = weights[0].dtype

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    if isinstance(part, Bare) or any(not weight.numel() for weight in weights):
        pairs = [(weight, normal(*weight.shape)) for weight in weights]
    else:
        output = part(_input(part, normal, generator))
        pairs = [(output, normal(*output.shape))]
    return sum((x * _of_kind(r, kind)).sum().double() for x, r in pairs)  # type: ignore[return-value]


def _input(part: nn.Module, normal: Callable[..., Tensor], generator: torch.Generator) -> Tensor:
    if isinstance(part, nn.Embedding):
        return torch.randint(part.num_embeddings, (ROWS,), generator=generator)
    if isinstance(part, nn.Conv1d | nn.Conv2d):
        sides = [each + 1 for each in part.kernel_size]
        return normal(ROWS, part.in_channels, *sides)
    width = part.in_features if isinstance(part, nn.Linear) else part.normalized_shape[0]
    return normal(ROWS, int(width))  # type: ignore[arg-type]


def _of_kind(cotangent: Tensor, kind: str) -> Tensor:
    if kind == "row" and cotangent.ndim:
        cotangent[..., 1:] = 0
    return cotangent * SCALES[kind]


def _size(draw: Random) -> int:
    return draw.choice(SIZES)


def _linear(draw: Random) -> nn.Module:
    return nn.Linear(_size(draw), _size(draw), bias=draw.random() < 0.5)


def _embedding(draw: Random) -> nn.Module:
    return nn.Embedding(_size(draw), _size(draw), sparse=draw.random() < 0.15)


def _conv(draw: Random) -> nn.Module:
    shape = max(1, _size(draw)), max(1, _size(draw))
    return draw.choice((nn.Conv1d, nn.Conv2d))(*shape, draw.choice((1, 2, 3)))


def _norm(draw: Random) -> nn.Module:
    return draw.choice((nn.LayerNorm, nn.RMSNorm))(max(1, _size(draw)))


def _bare(draw: Random) -> nn.Module:
    return Bare(tuple(_size(draw) for _ in range(draw.randrange(5))))


_MAKERS = (_linear, _linear, _embedding, _conv, _norm, _bare, _bare)
