"""Metrics from what goes into a layer and what comes back: KFAC, FOOF, Newton-Muon, EKFAC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Memory, Metric
from modula.norms.numerics import add_dims


class Damping(ABC):
    """How much of the identity is added to a Kronecker product, or to each of its factors.

    Eigenvalues of a factor below 1.9e-6 of the largest (3.6e-15 in float64) are rounding, and count
    as that before its root is taken, however small the damping.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        numbers = (each for each in vars(self).values() if isinstance(each, int | float))
        if not all(number >= 0 for number in numbers):
            raise ValueError(f"damping must be zero or positive; got {self}")

    @abstractmethod
    def amount(self, own: Tensor, sizes: Sequence[Tensor]) -> Tensor:
        """What is added to the eigenvalues of one factor.

        own: mean eigenvalue of each of its blocks, sizes: mean eigenvalue of this factor, (...),
        and of all others; the result broadcasts with own
        """


@dataclass(frozen=True)
class Relative(Damping):
    """A share of each factor's mean eigenvalue: it has no unit."""

    share: float = 0.1

    def amount(self, own: Tensor, sizes: Sequence[Tensor]) -> Tensor:
        return self.share * own


@dataclass(frozen=True)
class Absolute(Damping):
    """The same number for every factor."""

    value: float = 1e-3

    def amount(self, own: Tensor, sizes: Sequence[Tensor]) -> Tensor:
        return torch.full_like(own, self.value)


@dataclass(frozen=True)
class Balanced(Damping):
    """KFAC's: about `value` added to the product, shared out by the sizes of its two factors.

        A + pi sqrt(value) I,   B + sqrt(value) / pi I,   pi^2 = (tr A / d_A) / (tr B / d_B)

    Source: Martens and Grosse 2015, arXiv:1503.05671, section 6.3.
    """

    value: float = 1e-3

    def amount(self, own: Tensor, sizes: Sequence[Tensor]) -> Tensor:
        logs = torch.stack([size.log() for size in sizes])
        share = (logs[0] - logs.mean(0)).exp() * self.value ** (1 / len(sizes))
        return add_dims(share, own.ndim - share.ndim).expand_as(own)


@dataclass(frozen=True)
class Exact(Damping):
    """`value` added to the product itself, in the eigenvectors of its two factors.

        (B x A + value I)^-p g = Q_B ((Q_B^T G Q_A) / (b_i a_j + value)^p) Q_A^T

    with A = Q_A diag(a) Q_A^T and B = Q_B diag(b) Q_B^T.  A direction takes two products more
    than with the roots of damped factors.
    Source: George et al. 2018, arXiv:1806.03884, for the basis.
    """

    value: float = 1e-3

    def amount(self, own: Tensor, sizes: Sequence[Tensor]) -> Tensor:
        return torch.full_like(own, self.value)


@dataclass(frozen=True, repr=False)
class LayerMoments(Metric):
    """S = B x A for a layer y = W x: second moments of its inputs and of its output gradients.

        A = E[x x^T],   B = E[e e^T],   S^-p g = B^-p G A^-p

    with e the gradient of one term of the loss by y, G: (m, n), A: (n, n), B: (m, m).  Statistics
    that are not collected in a step, or not finite, leave everything as it was; before the first
    ones the metric is the identity.

    inputs        statistic that A averages; "" leaves A out: A = I
    outputs       statistic that B averages; "" leaves B out, as FOOF and Newton-Muon do
    damping       added to each factor before its root; Exact is added to their product
    every         steps between two computations of the inverse roots
    sample_every  steps between two looks at the statistics
    instant       whether the step uses a metric that has seen its own batch
    square        cut a dim that is a small multiple of the other into square diagonal blocks
    max_dim       widest factor; wider ones are cut into diagonal blocks
    inputs_first  whether the weight is stored (in, out), as transformers' Conv1D stores it

    Source: Martens and Grosse 2015 (KFAC), arXiv:1503.05671; Benzing 2022 (FOOF),
    arXiv:2201.12250.
    """

    named: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    inputs: str = "input_moment"
    outputs: str = "output_moment"
    memory: Memory = Memory(0.95)
    power: float = 1.0
    damping: Damping = Balanced()
    every: int = 10
    sample_every: int = 1
    instant: bool = True
    square: bool = False
    max_dim: int = 2048
    inputs_first: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.inputs or self.outputs):
            raise ValueError("LayerMoments needs a statistic of the inputs or of the outputs")
        _check(self.power, self.every, self.sample_every, self.max_dim)

    @property
    def sides(self) -> dict[str, str]:
        """The statistic of each side that has a factor, by "outputs" and "inputs"."""
        both = {"outputs": self.outputs, "inputs": self.inputs}
        return {side: statistic for side, statistic in both.items() if statistic}


@dataclass(frozen=True, repr=False)
class LayerEigenvalues(Metric):
    """KFAC's eigenvectors with eigenvalues of their own: S = (Q_B x Q_A) diag(D) (Q_B x Q_A)^T.

        D_ij = E[(Q_B^T e)_i^2 (Q_A^T x)_j^2],   A = Q_A diag(a) Q_A^T,   B = Q_B diag(b) Q_B^T
        S^-p g = Q_B ((Q_B^T G Q_A) / (D + damping)^p) Q_A^T

    One row (x, e) an example makes D exact in this basis; with more positions an example, each is
    taken for an example of its own.  Where the basis turns, D turns along.

    inputs, outputs  names of the rows: (rows, n) and (rows, m), in the same order
    damping          of D, the product itself: Absolute, Balanced and Exact are the same here
    max_dim          a wider side keeps its own basis
    every, sample_every, instant, inputs_first   as in LayerMoments

    Source: George et al. 2018, arXiv:1806.03884.
    """

    named: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    inputs: str = "layer_inputs"
    outputs: str = "output_gradients"
    memory: Memory = Memory(0.95)
    power: float = 1.0
    damping: Damping = Absolute()
    every: int = 10
    sample_every: int = 1
    instant: bool = True
    max_dim: int = 2048
    inputs_first: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _check(self.power, self.every, self.sample_every, self.max_dim)


def _check(power: float, every: int, sample_every: int, max_dim: int) -> None:
    if not power > 0 or every < 1 or sample_every < 1 or max_dim < 1:
        raise ValueError(
            "a metric of a layer needs power > 0, every >= 1, sample_every >= 1 and max_dim >= 1; "
            f"got {power}, {every}, {sample_every} and {max_dim}"
        )
