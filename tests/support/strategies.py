"""What hypothesis draws: tensors that a training run could really produce, all in float64."""

import torch
from hypothesis import strategies as st
from torch import Tensor

LARGEST = 12  # of any side: big enough for every aspect and rank, small enough for an exact SVD


def seeds() -> st.SearchStrategy[int]:
    """Seeds for a torch generator: hypothesis draws one number, torch fills the tensor."""
    return st.integers(0, 2**32 - 1)


def scales() -> st.SearchStrategy[float]:
    """Powers of ten from 1e-6 to 1e6."""
    return st.integers(-6, 6).map(lambda exponent: 10.0**exponent)


@st.composite
def batches(
    draw: st.DrawFn, *, tall: bool = False, square: bool = False, max_batch_dims: int = 2
) -> Tensor:
    """(..., out, in), up to `max_batch_dims` leading dims: one shape, rank and scale for the batch.

    Any aspect from 1 x 1 to 12 x 12 (`tall`: out >= in; `square`: out == in), any rank from 1.
    """
    fan_in = draw(st.integers(1, LARGEST))
    smallest, largest = (fan_in if tall or square else 1), (fan_in if square else LARGEST)
    fan_out = draw(st.integers(smallest, largest))
    rank = draw(st.integers(1, min(fan_out, fan_in)))
    batch = draw(st.lists(st.integers(1, 3), min_size=0, max_size=max_batch_dims))
    generator = torch.Generator().manual_seed(draw(seeds()))
    left = torch.randn(*batch, fan_out, rank, dtype=torch.float64, generator=generator)
    right = torch.randn(*batch, rank, fan_in, dtype=torch.float64, generator=generator)
    return left @ right * draw(scales())


def matrices(*, tall: bool = False, square: bool = False) -> st.SearchStrategy[Tensor]:
    """(out, in): one matrix, any aspect, any rank from 1, scales 1e-6 to 1e6."""
    return batches(tall=tall, square=square, max_batch_dims=0)


@st.composite
def vectors(draw: st.DrawFn) -> Tensor:
    """(n,): 1 to 12 entries, at least one of them not zero, scales 1e-6 to 1e6."""
    size = draw(st.integers(1, LARGEST))
    nonzeros = draw(st.integers(1, size))
    generator = torch.Generator().manual_seed(draw(seeds()))
    entries = torch.randn(size, dtype=torch.float64, generator=generator)
    entries[nonzeros:] = 0.0
    order = torch.randperm(size, generator=generator)
    return entries[order] * draw(scales())
