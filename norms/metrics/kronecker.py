"""Metrics that factor along the dims of a weight: S = S_1 x ... x S_k (Kronecker product)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Memory, Metric


class Mode(ABC):
    """What the factor of one dim looks like."""

    def on(self, size: int) -> str:
        """What the plan says of it, for a dim of this size."""
        return f"{type(self).__name__.removesuffix('Mode').lower()} {size}"


@dataclass(frozen=True)
class Dense(Mode):
    """Any positive definite matrix: (d, d)."""


@dataclass(frozen=True)
class DiagonalMode(Mode):
    """A diagonal matrix, kept as its d entries."""


@dataclass(frozen=True)
class Flat(Mode):
    """The identity: nothing is estimated along this dim."""


@dataclass(frozen=True)
class BlockDiagonal(Mode):
    """Dense blocks on a diagonal, each of `size` rows, or of their largest divisor below that."""

    size: int = 32

    def __post_init__(self) -> None:
        check_fields(self)
        if self.size < 1:
            raise ValueError(f"BlockDiagonal needs size >= 1; got {self.size}")

    def on(self, size: int) -> str:
        return f"{size} in blocks of {self.size}"


@dataclass(frozen=True)
class SpikeAndFlat(Mode):
    """U diag(l) U^T + mu (I - U U^T): `rank` eigenvalues l with their vectors, one mu for the rest.

    Source: Pro-KLShampoo 2026, arXiv:2605.06316 (its abstract), for the factors of KL-Shampoo.
    """

    rank: int = 16

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rank < 1:
            raise ValueError(f"SpikeAndFlat needs rank >= 1; got {self.rank}")

    def on(self, size: int) -> str:
        return f"{size} with {self.rank} spikes"


@dataclass(frozen=True)
class Triangular(Mode):
    """Dense, kept as a triangular K with S_i = (K K^T)^-1, by metrics that keep one."""


@dataclass(frozen=True)
class DenseIfShortest(Mode):
    """Dense along the shortest dim of a weight, the first of equals; Flat along all others."""


class Fit(ABC):
    """Which Kronecker product is meant, in terms of second moments along each dim.

    All of them average  M_i = share * mat_i(H) mat_i(H)^T  for each dim i, where mat_i(H) has dim
    i as its rows, and H is the gradient G, whitened along the other dims if the fit is coupled.
    """

    coupled = False

    @abstractmethod
    def share(self, size: int, entries: int) -> float:
        """The factor in M_i for a dim of this size, of a weight with so many entries."""

    @abstractmethod
    def factor_power(self, modes: int) -> float:
        """S = product of M_i to this power."""

    def trace_power(self, modes: int) -> float:
        """S_i is M_i divided by its trace to this power."""
        return 0.0


@dataclass(frozen=True)
class KL(Fit):
    """The Gaussian-KL projection of E[g g^T]: the S_i for which the whitened gradient is white.

        S_1 = E[G S_2^-1 G^T] / n,    S_2 = E[G^T S_1^-1 G] / m        G: (m, n)

    Source: Lin et al. 2025 (KL-Shampoo), arXiv:2509.03378.
    """

    coupled = True

    def share(self, size: int, entries: int) -> float:
        return size / entries

    def factor_power(self, modes: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Sum(Fit):
    """Shampoo: S = (M_1 x ... x M_k)^(1/k), with M_i = E[mat_i(G) mat_i(G)^T].

    Source: Gupta, Koren, Singer 2018, arXiv:1802.09568.
    """

    def share(self, size: int, entries: int) -> float:
        return 1.0

    def factor_power(self, modes: int) -> float:
        return 1 / modes


@dataclass(frozen=True)
class TraceScaled(Fit):
    """Shampoo squared: S = M_1 x M_2 / trace, nearly the closest to E[g g^T] in Frobenius norm.

    Source: Morwani et al. 2024, arXiv:2406.17748.
    """

    def share(self, size: int, entries: int) -> float:
        return 1.0

    def factor_power(self, modes: int) -> float:
        return 1.0

    def trace_power(self, modes: int) -> float:
        return (modes - 1) / modes


@dataclass(frozen=True, repr=False)
class Kronecker(Metric):
    """S = S_1 x ... x S_k, one factor a dim of the weight, each at most max_dim wide.

        S^-p g = G x_1 S_1^-p ... x_k S_k^-p

    modes      kind of each dim's factor, or one kind for all: Dense, BlockDiagonal, SpikeAndFlat,
               DiagonalMode, Flat; a Dense one that is too wide to be cut, or that cannot be
               estimated from memory.samples gradients, becomes DiagonalMode
    fit        what the factors are
    damping    added to each factor, in units of its mean eigenvalue; eigenvalues below 1.9e-6 of
               the largest (3.6e-15 in float64) are rounding, and count as that before
    every      steps between two computations of the inverse roots
    instant    whether the step uses a metric that has seen its own gradient
    square     cut a weight into square blocks where its long side is 2 to 8 times the other: each
               block has factors of its own.  The default by measurement: in 150 steps of a small
               GPT, 3 seeds, whole weights came to a loss of 2.2 that was 0.01 lower (Shampoo, KL-
               Shampoo, SOAP) or higher (Shampoo squared), at 1.3 times the time of a step, and a
               weight four times longer than wide has twice the state
    max_dim    widest dense factor; wider dims are cut into up to 9 equal blocks, or diagonal where
               no such number makes them narrow enough
    balance    make the mean eigenvalues of all factors equal in every step: only their product
               means anything, and without it their sizes drift apart
    statistic  name of what is averaged: "gradient", or the tensor that the step is dual to, "query"
    """

    modes: Mode | tuple[Mode, ...] = Dense()
    fit: Fit = KL()
    memory: Memory = Memory(0.95, unbiased=False)
    power: float = 0.5
    damping: float = 1e-4
    every: int = 10
    instant: bool = True
    square: bool = True
    max_dim: int = 2048
    balance: bool = True
    statistic: str = "gradient"

    def __post_init__(self) -> None:
        check_fields(self)
        fine = self.damping >= 0 and self.power > 0  # which a NaN is not
        if not fine or self.every < 1 or self.max_dim < 1:
            raise ValueError(
                "Kronecker needs damping >= 0, power > 0, every >= 1 and max_dim >= 1; got "
                f"damping {self.damping}, power {self.power}, every {self.every}, "
                f"max_dim {self.max_dim}"
            )
