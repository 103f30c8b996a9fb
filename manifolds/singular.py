"""The singular value decomposition, safe at every scale."""

import torch
from torch import Tensor


def scaled_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V^T of x: (..., m, n) with its largest entry divided out first, and put back into S.

    >>> scaled_svd(torch.tensor([[1e-30, 0.0], [0.0, 2e-30]]))[1]
    tensor([2.0000e-30, 1.0000e-30])
    """
    largest = x.abs().amax((-2, -1), keepdim=True)
    u, s, vh = torch.linalg.svd(torch.where(largest == 0, x, x / largest), full_matrices=False)
    return u, s * largest[..., 0], vh


def check_entries(manifold: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError if a matrix of this shape has no entries, and so no singular value."""
    if 0 in shape[-2:]:
        raise ValueError(
            f"{manifold} has no point of shape {tuple(shape)}: a matrix without entries has no "
            f"singular value, so give every dim at least one"
        )
