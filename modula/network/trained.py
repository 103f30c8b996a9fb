"""The weights of a model that an optimizer trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights by full name, without frozen ones and those without entries: nothing can move there.

    Raises ValueError, by name, for weights that no norm measures: see `check_weight`.
    """
    found = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            check_weight(name, weight)
            if weight.numel():
                found[name] = weight
    return found


def check_weight(name: str, weight: Tensor) -> None:
    """Raise ValueError for a weight that is lazy, complex, sparse, or that cannot be written to."""
    if is_lazy(weight):
        _refuse(name, "has no shape yet", "call the model once before its optimizer is made")
    if not weight.is_floating_point():
        kind = str(weight.dtype).removeprefix("torch.")
        cure = "keep its real and imaginary part, torch.view_as_real(weight), as a real weight"
        _refuse(name, f"is {kind}, and norms are of real weights", cure)
    if weight.layout != torch.strided:
        kind = str(weight.layout).removeprefix("torch.")
        _refuse(name, f"is stored as {kind}", "keep it dense: weight.to_dense()")
    if weight.is_inference():
        _refuse(name, "was made in inference mode, which forbids writing to it", "clone it outside")
    if _shares_entries(weight):
        _refuse(name, "has entries that share memory, as after expand", "clone it")


def _shares_entries(weight: Tensor) -> bool:
    return any(
        step == 0 for step, size in zip(weight.stride(), weight.shape, strict=True) if size > 1
    )


def _refuse(name: str, what: str, cure: str) -> None:
    raise ValueError(f"{name} {what}: {cure}, or freeze it with requires_grad_(False)")
