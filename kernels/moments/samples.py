r"""Samples that count: gradients and moments that are finite and not zero.

A gradient that is exactly zero carries no sample: factors stay as they are, and so does the count
`seen` that unbiased averages weigh by.  A layer may be frozen, or unused, for long.
"""

from collections.abc import Callable
from functools import reduce
from operator import and_

from torch import Tensor

from modula.kernels.op import Op, elementwise_cost


def entries(x: Tensor, counted: Tensor) -> Tensor:
    """x: (*counted.shape, *weight) with the weight's dims as one."""
    return x.reshape(*counted.shape, -1)


def over(x: Tensor, factor: Tensor) -> Tensor:
    """x: (...) with ones appended to its shape, so that it multiplies a factor."""
    return x[(..., *(None,) * (factor.ndim - x.ndim))]


def is_moment(x: Tensor, seen: Tensor) -> Tensor:
    """Whether x: (..., d, d) is finite and no diagonal entry is negative: (...)."""
    positive = (x.diagonal(dim1=-2, dim2=-1) >= 0).all(-1)
    return entries(x, seen).isfinite().all(-1) & entries(positive, seen).all(-1)


def has_finite_square(x: Tensor, seen: Tensor) -> Tensor:
    """Whether the mean square of x is finite: (...)."""
    return entries(x, seen).square().mean(-1).isfinite()


def is_finite(x: Tensor, seen: Tensor) -> Tensor:
    """Whether all entries of x are finite: (...)."""
    return entries(x, seen).isfinite().all(-1)


def tally_plain(seen: Tensor, gradient: Tensor) -> Tensor:
    """seen + 1 where the gradient is not zero: how many samples an average has had.

    seen: (...), gradient: (..., *weight)
    """
    return seen + entries(gradient != 0, seen).any(-1)


def tally_moment_plain(seen: Tensor, moment: Tensor) -> Tensor:
    """seen + 1 where the moment is usable and not zero.  seen: (...), moment: (..., d, d)"""
    return tally_plain(seen, usable_moment_plain(moment, seen))


def fresh_plain(sample: Tensor, seen: Tensor) -> Tensor:
    """1 where the sample is not exactly zero, else 0: (...), the shape of the count `seen`."""
    return entries(sample != 0, seen).any(-1).to(seen.dtype)


def usable_plain(sample: Tensor, seen: Tensor) -> Tensor:
    """The sample, or zero where its mean square is not finite: zero counts as no sample."""
    return sample.where(over(has_finite_square(sample, seen), sample), 0.0)


def usable_moment_plain(moment: Tensor, seen: Tensor, *others: Tensor) -> Tensor:
    """The moment, or zero where it or another one is not finite or has a negative diagonal."""
    usable = reduce(and_, (is_moment(each, seen) for each in (moment, *others)))
    return moment.where(over(usable, moment), 0.0)


def counting_rejected(is_usable: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The plain twin of an op that counts the samples left out.

    is_usable  (sample, count) -> bool, of the shape of the count: (...)
    """

    def rejected_plain(count: Tensor, *samples: Tensor) -> Tensor:
        """count + 1 where one of the samples is not usable."""
        return count + ~reduce(and_, (is_usable(each, count) for each in samples))

    return rejected_plain


tally = Op("tally", tally_plain, elementwise_cost(1, 1))
tally_moment = Op("tally_moment", tally_moment_plain, elementwise_cost(1, 2))
fresh = Op("fresh", fresh_plain, elementwise_cost(1, 1))
usable = Op("usable", usable_plain, elementwise_cost(2, 3))
usable_moment = Op("usable_moment", usable_moment_plain, elementwise_cost(1, 4))
rejected = Op("rejected", counting_rejected(has_finite_square), elementwise_cost(2, 1))
rejected_moments = Op("rejected", counting_rejected(is_moment), elementwise_cost(1, 2))
