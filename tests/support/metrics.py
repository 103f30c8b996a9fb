"""One weight under a metric, run step by step in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modula.duality import Batch, Declaration, Program, Setting, Sharp, Unit, program_of
from modula.norms import (
    L2,
    PSGD,
    BlockDiagonal,
    DiagonalMode,
    InverseFree,
    Kronecker,
    LowRank,
    Metric,
    Norm,
    SpikeAndFlat,
    Triangular,
)

DTYPE = torch.float64

# A metric for each structure of factors, enrolled in the tests that any metric has to pass.
STRUCTURED = [
    Kronecker(DiagonalMode()),
    Kronecker(BlockDiagonal(2)),
    Kronecker(SpikeAndFlat(2)),
    PSGD(BlockDiagonal(2)),
    InverseFree(BlockDiagonal(2)),
    InverseFree(Triangular()),
    LowRank(3),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def moment(size: int, seed: int = 0) -> Tensor:
    """The second moment of some rows."""
    rows = draw(3 * size, size, seed=seed)
    return rows.mT @ rows / len(rows)


def setting(metric: Metric, norm: Norm | None = None, ndim: int = 2, **how: Any) -> Setting:
    """The preconditioned gradient, or the steepest direction in a norm."""
    how.setdefault("potential", Sharp() if norm is None else Unit())
    return Setting(norm or L2(ndim), metric=metric, **how)


def program(
    metric: Metric, shape: tuple[int, ...], norm: Norm | None = None, **how: Any
) -> Program:
    return program_of(Declaration(setting(metric, norm, len(shape), **how)), shape)


class Runner:
    """One weight under a program; `step` gives the direction it moved along."""

    def __init__(self, metric: Metric, shape: tuple[int, ...], **how: Any) -> None:
        self.program = program(metric, shape, **how)
        self.weight = torch.zeros(shape, dtype=DTYPE)
        self.batch = Batch([self.program], [self.weight])

    def step(self, gradient: Tensor, **statistics: Tensor) -> Tensor:
        before = self.weight.clone()
        self.batch.propose([gradient], {}, [statistics])
        self.batch.update(torch.ones((), dtype=DTYPE), {})
        return before - self.weight

    def steps(self, gradients: Sequence[Tensor]) -> Tensor:
        """The direction of the last one."""
        return [self.step(gradient) for gradient in gradients][-1]

    def state(self, name: str) -> Tensor:
        return self.batch.state[name].views[0]


def kronecker_samples(rows: Tensor, columns: Tensor) -> Tensor:
    """m n samples A e_i e_j^T B whose second moment is exactly A A^T x B^T B / (m n)."""
    m, n = len(rows), len(columns)
    units = torch.eye(m * n, dtype=DTYPE).reshape(m * n, m, n)
    return rows @ units @ columns


def once(metric: Metric, g: Tensor, norm: Norm | None = None, **statistics: Tensor) -> Tensor:
    """The direction of a first step."""
    return Runner(metric, tuple(g.shape), norm=norm).step(g, **statistics)
