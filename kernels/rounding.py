"""Stochastic rounding to bfloat16, unbiased: the mean of many roundings is the number itself."""

import torch
from torch import Tensor

LOST = 16  # bits of a float32 that a bfloat16 does not have


def to_bfloat16_at_random(x: Tensor, generator: torch.Generator) -> Tensor:
    """x rounded to one of its two bfloat16 neighbours at random, with mean x.

    An average with beta above 1 - 2^-8 stands still if it is rounded to the nearest.  What
    bfloat16 holds stays as it is.

    generator  that draws, on the device of x
    """
    single = x.float().contiguous()
    bits = single.view(torch.int32)
    noise = torch.randint(
        1 << LOST, bits.shape, generator=generator, dtype=bits.dtype, device=bits.device
    )
    # Magnitudes are cut, not rounded, after up to one unit in the last place was added to them.
    cut = ((bits + noise) >> LOST << LOST).view(torch.float32)
    return torch.where(single.isfinite(), cut, single).to(torch.bfloat16)
