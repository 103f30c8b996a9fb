"""Temporary perturbation of weights, for gradients at a random point near the mean."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_moved: set[int] = set()  # ids of the weights that are moved at this moment


@contextmanager
def perturbed(weights: Iterable[Tensor], noises: Iterable[Tensor]) -> Iterator[None]:
    """Context in which each weight is weight + noise; afterwards it is bit for bit as before.

    That holds whatever happens inside.  A backward pass belongs inside too, an optimizer's step
    outside: RuntimeError, with the weights put back, if one was written to.

    Raises ValueError, with nothing moved, for shapes that differ or a weight that is moved
    already, for which one noise would hide another.

    Source: Khan et al. 2018, arXiv:1806.04854; Shen et al. 2024, arXiv:2402.17641.
    """
    weights, noises = list(weights), list(noises)
    _refuse(weights, noises)
    # Copies, as (weight + noise) - noise is rounded and would not be the weight bit by bit.
    originals = [weight.detach().clone() for weight in weights]
    ids = {id(weight) for weight in weights}
    try:
        _moved.update(ids)
        with torch.no_grad():
            for weight, noise in zip(weights, noises, strict=True):
                weight.add_(noise)
        versions = [weight._version for weight in weights]
        yield
        written = [i for i, weight in enumerate(weights) if weight._version != versions[i]]
    finally:
        _moved.difference_update(ids)
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)
    if written:
        raise RuntimeError(
            f"weights {written} were written to while they were perturbed, and are what they were "
            "before: leave `perturbed` first, then step"
        )


def _refuse(weights: list[Tensor], noises: list[Tensor]) -> None:
    shapes, noise_shapes = [tuple(w.shape) for w in weights], [tuple(n.shape) for n in noises]
    if shapes != noise_shapes:
        raise ValueError(
            f"perturbed needs a noise of the shape of each weight: got {noise_shapes} for {shapes}"
        )
    if len({id(weight) for weight in weights}) < len(weights):
        raise ValueError("perturbed got a weight twice: give each once, with one noise")
    if any(id(weight) in _moved for weight in weights):
        raise ValueError(
            "a weight is perturbed already: leave the outer `perturbed` first, or add up the "
            "noises and perturb once"
        )
