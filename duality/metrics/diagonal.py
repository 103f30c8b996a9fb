"""How diagonal metrics are kept: an average of squares, entry by entry."""

from dataclasses import dataclass

from torch import Tensor

from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates
from modula.duality.program.line import Line, Live, line
from modula.duality.program.slot import Slot
from modula.kernels.elementwise import averages
from modula.kernels.moments import samples, second_moment
from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.norms.maps.linear import Elementwise, LinearMap
from modula.norms.metrics.base import Memory
from modula.norms.metrics.diagonal import Diagonal, Scalar


@dataclass(frozen=True)
class PowerOfSquares:
    """C = ((batch S)^power + floor)^share, entry by entry, where S is an average of squares."""

    power: float
    floor: float
    share: float
    batch: float = 1.0

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (square,) = tensors
        scale = (self.batch * square) ** self.power + self.floor
        # Where no gradient was ever seen nothing is known, and nothing but zero comes along.
        return Elementwise(scale.where(scale > 0, 1.0) ** self.share)

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return elementwise_cost(3, 3)(shape, itemsize)

    def __str__(self) -> str:
        return "diagonal"


def average_of_squares(memory: Memory, state: str, read: str) -> tuple[Line, ...]:
    """Lines that keep the average of read^2 as `state`."""
    if memory.beta == 1:
        return (line(state, averages.add_square, state, read),)
    beta = Live("beta", memory.beta)
    if not memory.unbiased:
        return (line(state, averages.average_square, state, read, beta=beta),)
    return (line(state, averages.unbiased_average_square, state, read, "step", beta=beta),)


@coordinates.register
def _(metric: Diagonal, shape: Shape, whole: bool) -> Coordinates:
    build = PowerOfSquares(metric.power, metric.floor, 1.0 if whole else 0.5, metric.batch)
    return Coordinates(
        before=average_of_squares(metric.memory, "square", "sample"),
        core=(Applied(build, ("square",)),),
        slots=(("square", Slot(fill=metric.memory.first, second_moment=True)),),
    )


@dataclass(frozen=True)
class PowerOfSize:
    """C = size^power, one number a weight of ndim dims."""

    power: float
    ndim: int

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (size,) = tensors
        scale = size.where(size > 0, 1.0) ** self.power
        return Elementwise(scale[(..., *(None,) * self.ndim)])

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return elementwise_cost(1, 2)(shape, itemsize)

    def __str__(self) -> str:
        return "scalar"


def _average_size(size: Tensor, x: Tensor, seen: Tensor, *, beta: float, unbiased: bool) -> Tensor:
    """The average of the mean square of x, a sample further: (...)."""
    new = samples.entries(x, seen).square().mean(-1)
    return second_moment.average_moment(size, new, seen, beta=beta, unbiased=unbiased)


average_size = Op("average_size", _average_size, elementwise_cost(2, 1))


@coordinates.register
def _(metric: Scalar, shape: Shape, whole: bool) -> Coordinates:
    memory = metric.memory
    return Coordinates(
        before=(
            line("seen", samples.tally, "seen", "sample"),
            line(
                "size",
                average_size,
                "size",
                "sample",
                "seen",
                beta=memory.beta,
                unbiased=memory.unbiased,
            ),
        ),
        core=(Applied(PowerOfSize(metric.power * (1.0 if whole else 0.5), len(shape)), ("size",)),),
        slots=(("seen", Slot(())), ("size", Slot((), fill=memory.first))),
    )
