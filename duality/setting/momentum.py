"""Momenta: averages of the gradients, as lines of a program."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, replace
from typing import ClassVar

from modula.duality.program.line import Line, Live, line
from modula.duality.program.slot import Slot, Slots
from modula.kernels.elementwise import averages
from modula.kernels.op import Op
from modula.norms.checks import check_beta, check_fields

COEFFICIENT = "a momentum coefficient"  # as errors call it
AVERAGE: Slots = (("momentum", Slot()),)


class Momentum(ABC):
    """An average of the gradients that the direction is derived from; the gradient if none.

    A subclass states `query`, `lines` and `slots`, or where else something is averaged.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        return repr(NoMomentum() if self.rests else self)

    @property
    def rests(self) -> bool:
        """Whether it is the gradient alone, as with a coefficient of zero, and keeps no state."""
        return False

    def at(self, beta: float) -> Momentum:
        """The same with this coefficient, if it is one that may rest; any other stays as it is."""
        return self

    @property
    def query(self) -> str:
        """Name of the tensor that the direction is derived from."""
        return "gradient"

    def lines(self) -> tuple[Line, ...]:
        """Lines that advance the average and leave `query`."""
        return ()

    @property
    def slots(self) -> Slots:
        """The state that the lines keep."""
        return ()

    def between(self) -> Momentum | None:
        """The momentum between the metric and the norm of a chain, if any."""
        return None

    def behind(self) -> Momentum | None:
        """The momentum of the directions, if any."""
        return None


@dataclass(frozen=True)
class NoMomentum(Momentum):
    """The gradient itself."""

    @property
    def rests(self) -> bool:
        return True


@dataclass(frozen=True)
class Between(Momentum):
    """Average the preconditioned gradients of a chain, in place of the gradients: Newton-Muon."""

    momentum: Momentum

    @property
    def rests(self) -> bool:
        return self.momentum.rests

    def at(self, beta: float) -> Momentum:
        return replace(self, momentum=self.momentum.at(beta))

    def between(self) -> Momentum | None:
        return self.momentum


@dataclass(frozen=True)
class Behind(Momentum):
    """Average the directions, in place of the gradients: the heavy ball of natural gradients."""

    momentum: Momentum

    @property
    def rests(self) -> bool:
        return self.momentum.rests

    def at(self, beta: float) -> Momentum:
        return replace(self, momentum=self.momentum.at(beta))

    def behind(self) -> Momentum | None:
        return self.momentum


@dataclass(frozen=True)
class Unbiased(Momentum):
    """m <- m + w (g - m), w = (1 - beta) / (1 - beta^step): Adam's bias-corrected average.

    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """

    beta: float = 0.9

    def __post_init__(self) -> None:
        check_fields(self)
        check_beta(COEFFICIENT, self.beta)

    @property
    def query(self) -> str:
        return "momentum"

    @property
    def slots(self) -> Slots:
        return AVERAGE

    def lines(self) -> tuple[Line, ...]:
        live = Live("momentum", self.beta)
        average = line(
            "momentum", averages.unbiased_average, "momentum", "gradient", "step", beta=live
        )
        return (average,)


@dataclass(frozen=True)
class _Followed(Momentum):
    """An average that is followed; with nesterov, one gradient further on.

    A coefficient of zero leaves no lines and no state, until param_groups say another.
    """

    beta: float
    nesterov: bool = False

    advance: ClassVar[Op]
    look_ahead: ClassVar[Op]

    def __post_init__(self) -> None:
        check_fields(self)
        check_beta(COEFFICIENT, self.beta)

    @property
    def rests(self) -> bool:
        return self.beta == 0

    def at(self, beta: float) -> Momentum:
        return replace(self, beta=beta)

    @property
    def query(self) -> str:
        if self.rests:
            return "gradient"
        return "query" if self.nesterov else "momentum"

    @property
    def slots(self) -> Slots:
        return () if self.rests else AVERAGE

    def lines(self) -> tuple[Line, ...]:
        if self.rests:
            return ()
        live = Live("momentum", self.beta)
        advanced = line("momentum", self.advance, "momentum", "gradient", beta=live)
        ahead = line("query", self.look_ahead, "gradient", "momentum", beta=live)
        return (advanced, ahead) if self.nesterov else (advanced,)


@dataclass(frozen=True)
class Average(_Followed):
    """m <- beta m + (1 - beta) g, followed; with nesterov, beta m + (1 - beta) g once more."""

    beta: float = 0.95

    advance, look_ahead = averages.average, averages.blend


@dataclass(frozen=True)
class HeavyBall(_Followed):
    """m <- beta m + g, followed; with nesterov, g + beta m."""

    beta: float = 0.9

    advance, look_ahead = averages.accumulate, averages.lookahead


@dataclass(frozen=True)
class QueryStore(Momentum):
    """Follow query m + (1 - query) g, then store m <- store m + (1 - store) g.

    Source: Chen et al. 2023 (Lion), arXiv:2302.06675.
    """

    ask: float = 0.9
    store: float = 0.99

    def __post_init__(self) -> None:
        check_fields(self)
        check_beta(COEFFICIENT, self.ask)
        check_beta(COEFFICIENT, self.store)

    @property
    def query(self) -> str:
        return "query"

    @property
    def slots(self) -> Slots:
        return AVERAGE

    def lines(self) -> tuple[Line, ...]:
        ask, store = Live("momentum", self.ask), Live("store", self.store)
        return (
            line("query", averages.blend, "gradient", "momentum", beta=ask),
            line("momentum", averages.average, "momentum", "gradient", beta=store),
        )
