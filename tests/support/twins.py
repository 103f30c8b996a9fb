"""Lists of tensors, and whether an op's foreach twin does what its plain one says."""

from typing import Any

import torch
from torch import Tensor

from modula.kernels.op import Op

LR = torch.tensor(0.3, dtype=torch.float64)


def tensors(count: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3 + k, 4, generator=generator, dtype=dtype) for k in range(count)]


def assert_twins_agree(op: Op, reads: list[list[Tensor]], expected: list[Tensor], **o: Any) -> None:
    assert op.foreach is not None
    kept = [[x.clone() for x in read] for read in reads]
    found = op.foreach(*reads, **o)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    written = [found] if op.writes_first else []
    after = [*written, *kept[len(written) :]]
    torch.testing.assert_close(reads, after, rtol=1e-12, atol=1e-12)
