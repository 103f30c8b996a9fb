"""A diagonal second moment in the eigenbasis of a Kronecker metric."""

from __future__ import annotations

from dataclasses import dataclass

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Memory, Metric
from modula.norms.metrics.kronecker import Kronecker, Sum


@dataclass(frozen=True, repr=False)
class Eigenbasis(Metric):
    """S = Q diag(D) Q^T with Q = Q_1 x ... x Q_k and D = E[(Q^T g)^2]: SOAP, KL-SOAP, EShampoo.

        S^-p g = Q (D^-p * (Q^T g))

    D is the Gaussian-KL projection of E[g g^T] on what is diagonal in the basis.

    kronecker  whose factors' eigenvectors are the Q_i: its fit, memory, blocks, and `every`, the
               steps from one basis to the next; a flat or diagonal mode is not rotated; with
               `instant` false the basis is renewed behind the direction
    memory     of D
    floor      least root of D that counts, in units of the largest one of its block: rotating a
               zero leaves rounding, which is not to be taken for a gradient
    tolerance  of the basis: one in which the part of a factor off its diagonal is at most so
               large a share of the factor's Frobenius norm stays as it is

    Source: Vyas et al. 2024 (SOAP), arXiv:2409.11321; Eschenhagen et al. 2025 (EShampoo and the
    tolerance), arXiv:2506.03595; Lin et al. 2025 (KL-SOAP), arXiv:2509.03378.
    """

    kronecker: Kronecker = Kronecker(fit=Sum(), memory=Memory(0.95, unbiased=False), instant=False)
    memory: Memory = Memory(0.95)
    floor: float = 1e-4
    power: float = 0.5
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.floor >= 0 and self.tolerance >= 0 and self.power > 0):
            raise ValueError(
                "Eigenbasis needs floor >= 0, tolerance >= 0 and power > 0; got "
                f"floor {self.floor}, tolerance {self.tolerance}, power {self.power}"
            )

    @property
    def statistic(self) -> str:
        """Name of what is averaged."""
        return self.kronecker.statistic
