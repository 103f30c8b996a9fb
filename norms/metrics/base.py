"""A metric: other coordinates in which a norm is measured, estimated while training.

A metric estimates a second moment S of what the gradient (or another statistic) is like, and gives
a linear map C with C^T C = S^p.  A norm under a metric is ||x|| = norm(C x), and its steepest
direction is the sandwich C^-1 duality_map(C^-T g).  The classes here declare; the duality layer
turns them into lines of a program.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from modula.norms.checks import check_fields, check_kind

if TYPE_CHECKING:
    from modula.norms.base import Norm


@dataclass(frozen=True, repr=False)
class Memory:
    """How past and present are averaged: S <- beta S + (1 - beta) new.

    beta      1 adds up instead, S <- S + new, as AdaGrad does
    unbiased  whether the average weighs as if it had begun with the first step:
              S <- S + (1 - beta) / (1 - beta^k) (new - S) in step k
    first     S before the first step, times I, if not unbiased; Kronecker fits that are coupled
              begin with a multiple of I of the size of the first gradient where this is 0
    """

    beta: float = 0.999
    unbiased: bool = True
    first: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.beta <= 1 or self.first < 0:
            raise ValueError(
                f"an average needs 0 <= beta <= 1 and first >= 0; "
                f"got beta {self.beta}, first {self.first}"
            )

    def __repr__(self) -> str:
        return sparing_repr(self)

    @property
    def samples(self) -> float:
        """How many independent samples are worth as much as the average: (1 + beta)/(1 - beta)."""
        return float("inf") if self.beta == 1 else (1 + self.beta) / (1 - self.beta)


def sparing_repr(x: Any) -> str:
    """The call that makes a dataclass, without the arguments left at their defaults."""
    given = ((f.name, getattr(x, f.name), f.default) for f in fields(x))
    arguments = (f"{name}={value!r}" for name, value, default in given if value != default)
    return f"{type(x).__name__}({', '.join(arguments)})"


class Metric(ABC):
    """A second moment S to estimate, and the power p of it that measures: ||w||^2 = w^T S^p w.

    named  the fields that name a statistic of the network
    """

    named: ClassVar[tuple[str, ...]] = ("statistic",)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    @abstractmethod
    def power(self) -> float:
        """p: 1/2 is adaptive (Adam, Shampoo), 1 the natural gradient."""

    @property
    def statistic(self) -> str:
        """Name of what is averaged, which the lines that keep the metric call "sample"."""
        return "gradient"

    @property
    def max_dim(self) -> int:
        """The widest side of a weight that has a matrix for a factor."""
        return sys.maxsize

    def __repr__(self) -> str:
        return sparing_repr(self)

    def parts(self) -> dict[str, Metric]:
        """The metrics that this one is made of, by field."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return {name: value for name, value in values if isinstance(value, Metric)}

    def then(self, norm: Norm) -> Then:
        """First S^-p, then the norm's duality map: the chain.  No descent is guaranteed."""
        return Then(self, norm)


@dataclass(frozen=True)
class Under:
    """norm.under(metric): ||x|| = norm(C x) for the C that the metric has come to."""

    norm: Norm
    metric: Metric

    def __post_init__(self) -> None:
        check_kind("norm.under", "metric", self.metric, Metric)

    def over(self, ndim: int) -> Under:
        """The same for a weight of ndim dims."""
        return replace(self, norm=self.norm.over(ndim))

    def __repr__(self) -> str:
        return f"{self.norm}.under({self.metric})"


@dataclass(frozen=True)
class Then:
    """metric.then(norm): norm.duality_map(S^-p g), which is no steepest descent in any norm.

    One-sided spectral chains still descend; two-sided and elementwise ones may ascend.
    """

    metric: Metric
    norm: Norm

    def over(self, ndim: int) -> Then:
        """The same for a weight of ndim dims."""
        return replace(self, norm=self.norm.over(ndim))

    def __repr__(self) -> str:
        return f"{self.metric}.then({self.norm})"


@dataclass(frozen=True, repr=False)
class First(Metric):
    """The metric of a chain: the gradient meets S^-p before the norm sees it."""

    metric: Metric

    @property
    def power(self) -> float:
        return self.metric.power

    def __repr__(self) -> str:
        return f"first {self.metric}, no descent guarantee"
