"""Weight decay: its rate, and the place in the update where it acts."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, replace

from modula.duality.program.line import Line, Live, PerWeight, Role, line
from modula.duality.program.names import MEAN_SQUARE
from modula.duality.setting.derive import Derived, Setting
from modula.kernels.elementwise import decay
from modula.kernels.op import Op, Shape
from modula.norms.checks import check_fields, check_not_negative
from modula.norms.metrics.diagonal import Diagonal


@dataclass(frozen=True)
class Decay(ABC):
    """Base of weight decays; the rate stands in param_groups as "weight_decay".

    Every place is a method that a subclass may fill; a float for a Decay means Decoupled.
    """

    rate: float

    def __post_init__(self) -> None:
        check_fields(self)
        check_not_negative("weight_decay", self.rate)

    def line(self, result: str, op: Op, *reads: str, scale: float) -> Line:
        """A line under the rate, which is live, times a number that may differ by weight."""
        live, factor = Live("weight_decay", self.rate), PerWeight(float(scale))
        return line(result, op, *reads, rate=live, scale=factor)

    def shrinking(self, op: Op, *reads: str, scale: float) -> Line:
        """A line that draws the weight to zero."""
        return self.line("weight", op, "weight", *reads, scale=scale).in_role(Role.DECAY)

    def check(self, setting: Setting) -> None:
        """Raise ValueError for a setting that lacks what the decay reads."""
        return None

    def into_gradient(self) -> Line | None:
        """A line that makes "decayed_gradient", which all others then take for the gradient."""
        return None

    def behind(self, derived: Derived) -> Derived:
        """The derivation with decay added to its direction, before momenta behind that."""
        return derived

    def shrink(self, direction: str, budget: float, shape: Shape) -> Line | None:
        """A line that shrinks the weight before the step along `direction`."""
        return None


@dataclass(frozen=True)
class Decoupled(Decay):
    """(1 - lr budget rate) w before the step: 1/rate is the radius of a ball in the weight's norm.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    def shrink(self, direction: str, budget: float, shape: Shape) -> Line:
        return self.shrinking(decay.decay, "lr", scale=budget)


@dataclass(frozen=True)
class Coupled(Decay):
    """g + rate w for the gradient, in momenta and metrics too: the L2 penalty rate ||w||^2 / 2."""

    def into_gradient(self) -> Line:
        return self.line("decayed_gradient", decay.add_decay, "gradient", "weight", scale=1.0)


@dataclass(frozen=True)
class BehindMetric(Decay):
    """D + rate w for the direction, seen by momenta behind the metric and by scalers.

    Without those it is Decoupled.  Source: Lin et al. 2024 (root-free), arXiv:2402.03496.
    """

    def behind(self, derived: Derived) -> Derived:
        reads = (derived.direction, "weight")
        added = self.line("decayed_direction", decay.add_decay, *reads, scale=1 / derived.scale)
        return replace(derived, lines=(*derived.lines, added), direction=added.result)


@dataclass(frozen=True)
class Independent(Decay):
    """(1 - rate lr / peak) w: a rate of its own, of which the schedule of lr takes the same part.

    peak    the lr at which the rate is meant
    fan_in  the last dim at which it is meant: rate fan_in / (last dim) elsewhere, as the best
            rate goes with 1 / width; None leaves it alone
    Source: Wortsman et al. 2023, arXiv:2309.14322; Qiu et al. 2025, arXiv:2512.05620.
    """

    peak: float
    fan_in: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()
        if not self.peak > 0 or (self.fan_in is not None and self.fan_in < 1):
            raise ValueError(f"Independent needs a positive peak and fan_in; got {self}")

    def shrink(self, direction: str, budget: float, shape: Shape) -> Line:
        share = 1.0 if self.fan_in is None or not len(shape) else self.fan_in / shape[-1]
        return self.shrinking(decay.decay, "lr", scale=share / self.peak)


@dataclass(frozen=True)
class Scheduled(Decay):
    """Decoupled, over the root mean square of the whole network's gradients: AdamS.

        w <- (1 - lr budget rate / sqrt(mean v)) w

    mean v is over all entries of Adam's v, of all weights that decay like this and have a gradient
    in the step.  Where gradients become small weights decay more, so that the two keep their
    balance; the share that decays is at most one, and none while all gradients were zero.
    The rate has the unit of a gradient: 5e-4 in the paper.
    Source: Xie et al. 2023 (AdamS), arXiv:2011.11152.
    """

    def check(self, setting: Setting) -> None:
        metric = setting.metric
        if not (isinstance(metric, Diagonal) and metric.power == 0.5):
            raise ValueError(
                f"{self} divides by the root of Adam's second moment, which a weight under "
                f"{metric or 'no metric'} does not keep: put it under Diagonal(), as "
                f"recipes.adamw does, or use Decoupled({self.rate:g})"
            )

    def shrink(self, direction: str, budget: float, shape: Shape) -> Line:
        return self.shrinking(decay.scheduled_decay, "lr", MEAN_SQUARE, scale=budget)


@dataclass(frozen=True)
class Cautious(Decay):
    """Decoupled, only for entries that the step brings nearer to zero: those with w D > 0.

    Where w D = 0 nothing decays, where the paper decays: an unseen row of an embedding stays.
    Source: Chen et al. 2025, arXiv:2510.12402.
    """

    def shrink(self, direction: str, budget: float, shape: Shape) -> Line:
        return self.shrinking(decay.cautious_decay, direction, "lr", scale=budget)


def as_decay(decay: float | Decay | None) -> Decay | None:
    """A float is Decoupled, and None no decay at all."""
    return decay if decay is None or isinstance(decay, Decay) else Decoupled(decay)


def acting(decay: float | Decay | None) -> Decay | None:
    """The decay that draws weights to zero; None for a rate of zero, which leaves no line."""
    found = as_decay(decay)
    return found if found is not None and found.rate > 0 else None
