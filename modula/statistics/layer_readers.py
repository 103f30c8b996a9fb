"""Readers of layers: inputs and output gradients of each layer type, as rows.

A layer's data is read as (examples, positions, features).  Features of an input are the columns
of the weight seen as a matrix, so those of a convolution are the entries of a patch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

import modula.network.atoms as atoms

SHOWN = (
    "torch.nn's Linear and Conv1d, Conv2d, Conv3d with groups=1, modula's Linear and Conv2d, and "
    "transformers' Conv1D"
)


@dataclass(frozen=True)
class Reader:
    """How to read inputs and output gradients of one layer type.

    inputs    (layer, x) -> (examples, positions, fan_in)
    outputs   (layer, y or dL/dy) -> (examples, positions, fan_out)
    terms     (examples, positions) -> how many terms of the loss they usually stand for
    """

    inputs: Callable[[Any, Tensor], Tensor]
    outputs: Callable[[Any, Tensor], Tensor]
    terms: Callable[[int, int], int]


@dataclass(frozen=True)
class Owner:
    """A layer that owns a weight, and how to read it."""

    layer: nn.Module
    reader: Reader


def owners(model: nn.Module, name: str, weight: Tensor) -> list[Owner]:
    """Every layer that owns the weight: two where it is tied.

    Raises ValueError, naming the weight, if one of them does not show its inputs.
    """
    found = []
    for path, module in model.named_modules():
        for leaf, owned in module.named_parameters(recurse=False):
            if owned is weight:
                found.append(Owner(module, _reader(module, leaf, name, path)))
    return found


def _reader(module: nn.Module, leaf: str, name: str, path: str) -> Reader:
    if leaf == "weight":
        if _is_linear(module):
            return SEQUENCE
        if isinstance(module, _CONVOLUTIONS) and getattr(module, "groups", 1) == 1:
            return IMAGE
    raise ValueError(
        f"the layer inputs and output gradients of {name} cannot be seen: {path or 'the model'} "
        f"({type(module).__name__}) owns it as {leaf!r}, and only the `weight` of a module that is "
        f"called shows them; declare this map as one of {SHOWN}, or choose a metric that reads "
        "gradients only"
    )


def _is_linear(module: nn.Module) -> bool:
    """MultiheadAttention reads the weight of its out_proj, the last kind, without calling it."""
    known = isinstance(module, nn.Linear | atoms.Linear) or type(module).__name__ == "Conv1D"
    return known and not isinstance(module, NonDynamicallyQuantizableLinear)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, atoms.Conv2d)


def _sequence(_: Any, x: Tensor) -> Tensor:
    """(examples, ..., features); one dim alone is one example."""
    examples = x.shape[0] if x.ndim > 1 else 1
    return x.reshape(examples, prod(x.shape[1:-1]), x.shape[-1])


def _image(layer: Any, y: Tensor) -> Tensor:
    """(examples, features, *space); without the first dim it is one example."""
    return _batched(layer, y).flatten(2).mT


def _patches(layer: Any, x: Tensor) -> Tensor:
    """The windows that the kernel sees, each flattened as weight[o] is: (N, positions, fan_in).

    Unfolding one dim after the other makes (N, channels, *space, *kernel).
    """
    kernel = layer.weight.shape[2:]
    dims = len(kernel)
    stride, dilation = _each(layer.stride, dims), _each(getattr(layer, "dilation", 1), dims)
    x = _padded(layer, _batched(layer, x), kernel, dilation)
    for dim in range(dims):
        span = dilation[dim] * (kernel[dim] - 1) + 1
        x = x.unfold(2 + dim, span, stride[dim])[..., :: dilation[dim]]
    positions = prod(x.shape[2 : 2 + dims])
    return x.movedim(1, 1 + dims).reshape(x.shape[0], positions, layer.weight[0].numel())


def _padded(layer: Any, x: Tensor, kernel: Sequence[int], dilation: Sequence[int]) -> Tensor:
    sides: list[int] = []
    for dim in reversed(range(len(kernel))):  # F.pad starts at the last dim
        if layer.padding == "same":
            total = dilation[dim] * (kernel[dim] - 1)
        elif layer.padding == "valid":
            total = 0
        else:
            total = 2 * _each(layer.padding, len(kernel))[dim]
        sides += [total // 2, total - total // 2]
    mode = getattr(layer, "padding_mode", "zeros")
    return F.pad(x, sides, mode="constant" if mode == "zeros" else mode)


def _batched(layer: Any, x: Tensor) -> Tensor:
    return x if x.ndim == layer.weight.ndim else x.unsqueeze(0)


def _each(value: int | Sequence[int], dims: int) -> Sequence[int]:
    return (value,) * dims if isinstance(value, int) else value


SEQUENCE = Reader(_sequence, _sequence, lambda examples, positions: examples * positions)
IMAGE = Reader(_patches, _image, lambda examples, positions: examples)
