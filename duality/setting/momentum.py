"""Momenta: averages of the gradients, as lines of a program."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from modula.duality.program.line import Line, Live, line
from modula.duality.program.slot import Slot, Slots
from modula.kernels.elementwise import averages
from modula.kernels.op import Op
from modula.norms.checks import check_fields


def _check_beta(beta: float) -> None:
    if not 0 <= beta < 1:
        raise ValueError(f"a momentum coefficient must be in [0, 1); got {beta}")


AVERAGE: Slots = (("momentum", Slot()),)


class Momentum(ABC):
    """An average of the gradients that the direction is derived from; the gradient if none.

    A subclass states `query`, `lines` and `slots`, or where else something is averaged.
    """

    def __post_init__(self) -> None:
        check_fields(self)

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


@dataclass(frozen=True)
class Between(Momentum):
    """Average the preconditioned gradients of a chain, in place of the gradients: Newton-Muon."""

    momentum: Momentum

    def between(self) -> Momentum | None:
        return self.momentum


@dataclass(frozen=True)
class Behind(Momentum):
    """Average the directions, in place of the gradients: the heavy ball of natural gradients."""

    momentum: Momentum

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
        _check_beta(self.beta)

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
    """An average that is followed; with nesterov, one gradient further on."""

    beta: float
    nesterov: bool = False

    advance: ClassVar[Op]
    look_ahead: ClassVar[Op]

    def __post_init__(self) -> None:
        check_fields(self)
        _check_beta(self.beta)

    @property
    def query(self) -> str:
        return "query" if self.nesterov else "momentum"

    @property
    def slots(self) -> Slots:
        return AVERAGE

    def lines(self) -> tuple[Line, ...]:
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
        _check_beta(self.ask)
        _check_beta(self.store)

    @property
    def query(self) -> str:
        return "query"

    @property
    def slots(self) -> Slots:
        return AVERAGE

    def lines(self) -> tuple[Line, ...]:
        ask = Live("momentum", self.ask)
        return (
            line("query", averages.blend, "gradient", "momentum", beta=ask),
            line("momentum", averages.average, "momentum", "gradient", beta=self.store),
        )
