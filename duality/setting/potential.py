"""Potentials: the length of the step along its direction."""

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modula.norms.base import Norm
from modula.norms.checks import check_fields
from modula.norms.vector import Max, VectorNorm


class Potential(ABC):
    """The convex function whose conjugate's gradient turns a momentum into an update.

    normalises  whether the smallest momentum makes as long an update as any
    """

    normalises: ClassVar[bool] = True


@dataclass(frozen=True)
class Unit(Potential):
    """Norm one, whatever the gradient's size: argmax of <g, t> over ||t|| <= 1.  Muon, sign."""


@dataclass(frozen=True)
class Sharp(Potential):
    """As long as the gradient, in the dual norm: argmax of <g, t> - ||t||^2 / 2.  SGD."""

    normalises: ClassVar[bool] = False


@dataclass(frozen=True, repr=False)
class Clip(Potential):
    """Unit while the gradient is large, Sharp once it is small: generalised clipping.

        s = min(rho, N),   N = ||(budget * ||m||_*, of each weight)||_*, dual to `over`
        D = budget * share * (the weight's own direction),   shares = duality_map of `over`

    Solves argmin <m, D> + ||D||^2 / 2 over ||D|| <= rho in the norm of the whole network, which is
    that of the weights' own norms, over their budgets, in `over`.

    rho   where the two meet; a good one is the dual norm at which training is to slow down; a step
          is longer by what its direction is, up to 6 % for spectral norms that are not Exact()
    over  Max(): the modular norm; N is a sum, every share 1.  L2(): as clipping by the norm of all
          gradients, which it is for Frobenius norms.  L1(): the weight that gains most goes alone
    Source: Pethick et al. 2025, arXiv:2506.01913.
    """

    rho: float = 1.0
    over: VectorNorm = Max()

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.rho > 0:
            raise ValueError(f"Clip(rho) needs a positive rho; got {self.rho}")
        if self.over.ndim != 1:
            raise ValueError(f"Clip is over one number a weight, as Max() is; got {self.over}")

    def __repr__(self) -> str:
        # Without the default, as saved states have it that are older than the choice.
        over = "" if self.over == Max() else f", over={self.over}"
        return f"Clip(rho={self.rho}{over})"

    def length(self, gains: Tensor) -> Tensor:
        """s, 0-d, from each weight's <m, D> times its budget: (weights,)."""
        return self.over.dual(gains).clamp(max=self.rho)

    def shares(self, gains: Tensor) -> Tensor | None:
        """The share of s that each weight steps by; None where that is s for all."""
        return None if isinstance(self.over, Max) else self.over.duality_map(gains)


@dataclass(frozen=True)
class ShortStep(Potential):
    """Clip for weights in norm balls: as long as the Frank-Wolfe gap allows, decay included.

        s = min(rho, gap / 4),   gap = sum over weights of budget * <m, D + w / radius>

    radius is 1 / weight_decay, and D + w / radius is the whole step, of norm two or less: the 4
    is its square.  Near a minimum, inside the balls or on their rims, the gap goes to zero, and
    the decay with it.  No weight leaves its ball while lr * rho * budget <= radius.

    Source: Pethick et al. 2025, arXiv:2506.01913 (S3CG); the short step is Frank and Wolfe's.
    """

    rho: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.rho > 0:
            raise ValueError(f"ShortStep(rho) needs a positive rho; got {self.rho}")

    def length(self, gaps: Tensor) -> Tensor:
        """s, a 0-d tensor, for the Frank-Wolfe gaps of all weights; rounding noise is no step."""
        return (gaps.sum() / 4).clamp(min=0, max=self.rho)


@dataclass(frozen=True)
class Within(Potential):
    """Sharp, projected on the ball {norm <= radius}: Sophia, trust regions.

    Source: Liu et al. 2023, arXiv:2305.14342, for the largest entry.
    """

    normalises: ClassVar[bool] = False

    norm: Norm
    radius: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.radius > 0:
            raise ValueError(f"Within(norm, radius) needs a positive radius; got {self.radius}")
