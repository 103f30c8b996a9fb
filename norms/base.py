"""The base classes of norms: value, dual norm and duality map; multiples, and norms of blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import torch
from torch import Tensor

from modula.norms.blocks import BlockView
from modula.norms.checks import check_fields, check_kind
from modula.norms.metrics.base import Metric, Under
from modula.norms.numerics import (
    add_dims,
    at_least_float32,
    decreasing_root,
    flat,
    largest,
    nonzero,
    ratio,
    split_scale,
)


class NoClosedForm(ValueError):
    """What was asked of a norm is not known in closed form."""


class Norm(ABC):
    """A norm on one weight, the last `ndim` dims of a tensor; any dims before them are a batch.

    Laws, checked for every subclass by tests/laws/test_norm_laws.py, for g != 0:
        norm(duality_map(g)) == 1
        <g, duality_map(g)> == dual(g)
        norm(c x) == |c| norm(x),  norm(x + y) <= norm(x) + norm(y)
        duality_map(0) == 0, and no argument is changed
        duality_map(p g) == p duality_map(g) for p = nonzero_parts(h), of any h: 0 or 1 by part
    and for p = project(x, r), where the norm has a projection:
        norm(p) <= r,  project(p, r) == p,  <x - p, y - p> <= 0 for every norm(y) <= r
        norm.prox(x, s) + (the projection of x on dual(y) <= s) == x      (Moreau)

    A subclass, a frozen dataclass, states `ndim`, the value, `dual` and `duality_map`; and where
    they are known `_nearest` (the formula of `project`), `dual_norm`, and `over`, the same norm for
    weights of another number of dims.  Norms of matrices derive from MatrixNorm, which has `over`.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    @abstractmethod
    def ndim(self) -> int:
        """How many trailing dims are measured together."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """||x||, one number for each tensor of the batch."""

    @abstractmethod
    def dual(self, g: Tensor) -> Tensor:
        """||g||_* = max of <g, t> over ||t|| <= 1."""

    @abstractmethod
    def duality_map(self, g: Tensor) -> Tensor:
        """The t of that maximum: steepest ascent at unit length.  The LMO is its negative."""

    def nonzero_parts(self, g: Tensor) -> Tensor:
        """Where each part that is measured by itself has an entry of g that is not zero: bool.

        A part moves at unit length whatever the others do; of most norms it is the whole weight.
        The shape broadcasts to that of g: (..., 1, ..., 1) here.
        """
        return nonzero(g, self.ndim)

    def project(self, x: Tensor, radius: float | Tensor = 1.0) -> Tensor:
        """The point nearest to x, in Frobenius distance, of the ball {||y|| <= radius}.

        `radius` >= 0 is one number, or one for each tensor of the batch.  A point of the ball is
        its own projection, to the bit.  A subclass states the formula in `_nearest`.
        """
        unit, top = split_scale(self.prepare(x), self.ndim)
        return self._rescaled(x, unit, top, self._nearest(unit, self._share(radius, "radius", top)))

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """argmin over y of step ||y|| + 1/2 |y - x|^2, with the Frobenius length | |.

        It is x minus the projection of x on the dual norm's ball of radius `step` >= 0 (one
        number, or one for each tensor of the batch).
        Source: Moreau 1965, doi:10.24033/bsmf.1625.
        """
        unit, top = split_scale(self.prepare(x), self.ndim)
        return self._rescaled(x, unit, top, self._shrunk(unit, self._share(step, "step", top)))

    def dual_norm(self) -> Norm:
        """The norm whose value is this one's dual."""
        raise NoClosedForm(
            f"the dual of {self} is no object: use its .dual(g) and .duality_map(g); vector norms, "
            f"Spectral, Nuclear, Schatten, KyFan and their multiples have a dual_norm()"
        )

    def over(self, ndim: int) -> Norm:
        """The same norm for a weight of `ndim` dims, e.g. a matrix norm for a convolution."""
        if ndim != self.ndim:
            raise ValueError(
                f"{self} measures weights of {self.ndim} dims, not {ndim}; reshape them with "
                f'.on("pattern"), or choose another norm'
            )
        return self

    def on(self, pattern: str, /, **sizes: int) -> Blocks:
        """The largest norm over the blocks of an einops pattern: `on("(h d) i -> h d i", h=12)`."""
        return Blocks(self, pattern, tuple(sorted(sizes.items())))

    def under(self, metric: Metric) -> Under:
        """The norm measured in the coordinates that a metric comes to while training."""
        return Under(self, metric)

    def __rmul__(self, factor: float) -> Scaled:
        """factor * norm: the same directions, `factor` times shorter."""
        check_kind("factor * norm", "its factor", factor, float, 2.0)
        return Scaled(self, float(factor))

    def check_shape(self, shape: tuple[int, ...]) -> None:  # noqa: B027
        """Raise ValueError if no weight of this shape can be measured; the text names the cure."""

    def prepare(self, x: Tensor) -> Tensor:
        """x in at least float32; ValueError if it holds no weight that this norm can measure."""
        if x.ndim < self.ndim or not x.is_floating_point():
            raise ValueError(
                f"{self} measures the last {self.ndim} dims of a floating-point tensor; "
                f"got shape {tuple(x.shape)}, {x.dtype}"
            )
        return at_least_float32(x)

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        """`project` for x whose largest |entry| is 1 (or 0), with one radius for each."""
        raise NoClosedForm(
            f"{self} has no projection on its ball in closed form; L1, L2, RMS, Max, Spectral, "
            f"Nuclear, Schatten, KyFan, Rows, Columns, and multiples, blocks and sums over blocks "
            f"of these, have one"
        )

    def _shrunk(self, unit: Tensor, step: Tensor) -> Tensor:
        """`prox`, likewise: the projection p on the ball for whose radius dual(x - p) == step."""

        def excess(radius: Tensor) -> Tensor:
            return self.dual(unit - self._nearest(unit, radius)) - step

        return self._nearest(unit, decreasing_root(excess, self(unit)))

    def _share(self, number: float | Tensor, what: str, top: Tensor) -> Tensor:
        """number / top, one for each tensor of the batch."""
        self._check_positive(number, what)
        number = torch.as_tensor(number, dtype=top.dtype, device=top.device)
        return ratio(number.broadcast_to(top.shape), top)

    def _check_positive(self, number: float | Tensor, what: str) -> None:
        """Raise ValueError for a negative number; on an accelerator nobody waits to see it."""
        if isinstance(number, Tensor):
            wrong = number.device.type == "cpu" and bool((number < 0).any())
        else:
            wrong = not number >= 0
        if wrong:
            least = float(number.min()) if isinstance(number, Tensor) else number
            raise ValueError(f"{what}={least} of {self}: a {what} is 0 or more")

    def _rescaled(self, x: Tensor, unit: Tensor, top: Tensor, y: Tensor) -> Tensor:
        """y, found for unit = x / top, at the scale of x.  What has not moved is x to the bit."""
        return torch.where(y == unit, x, (add_dims(top, self.ndim) * y).to(x.dtype))


class MatrixNorm(Norm, ABC):
    """A norm on matrices W: (..., out, in).  More dims are flattened into `in`, as in Muon."""

    @property
    def ndim(self) -> int:
        return 2

    @property
    @abstractmethod
    def of_column(self) -> Norm:
        """What this norm is on a matrix with one column: the norm of a bias."""

    def over(self, ndim: int) -> Norm:
        if ndim < 2:
            nearest = f"{self.of_column}" if ndim == 1 else f"{self.of_column}.over({ndim})"
            raise ValueError(
                f"{self} measures matrices, not weights of {ndim} dims; for them use {nearest}, "
                f"which is {self} of a matrix with one column"
            )
        axes = [f"i{k}" for k in range(1, ndim)]
        pattern = f"o {' '.join(axes)} -> o ({' '.join(axes)})"
        return self if ndim == 2 else self.on(pattern)


@dataclass(frozen=True, repr=False)
class Scaled(Norm):
    """factor * norm.

        ||x|| = factor ||x||_norm,   ||g||_* = ||g||_norm* / factor

    Source: Bernstein and Newhouse 2024, arXiv:2409.20325.
    """

    norm: Norm
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < inf:
            raise ValueError(
                f"{self.factor} * {self.norm} is no norm: the factor must be positive and finite"
            )

    def __repr__(self) -> str:
        return f"{self.factor:g} * {self.norm}"

    def __rmul__(self, factor: float) -> Scaled:
        check_kind("factor * norm", "its factor", factor, float, 2.0)
        return Scaled(self.norm, float(factor) * self.factor)

    @property
    def ndim(self) -> int:
        return self.norm.ndim

    def over(self, ndim: int) -> Norm:
        return replace(self, norm=self.norm.over(ndim))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        self.norm.check_shape(shape)

    def __call__(self, x: Tensor) -> Tensor:
        return self.factor * self.norm(x)

    def dual(self, g: Tensor) -> Tensor:
        return self.norm.dual(g) / self.factor

    def duality_map(self, g: Tensor) -> Tensor:
        return self.norm.duality_map(g) / self.factor

    def nonzero_parts(self, g: Tensor) -> Tensor:
        return self.norm.nonzero_parts(g)

    def project(self, x: Tensor, radius: float | Tensor = 1.0) -> Tensor:
        self._check_positive(radius, "radius")
        return self.norm.project(x, radius / self.factor)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        self._check_positive(step, "step")
        return self.norm.prox(x, step * self.factor)

    def dual_norm(self) -> Norm:
        return (1 / self.factor) * self.norm.dual_norm()


@dataclass(frozen=True, repr=False)
class Blocks(Norm):
    """The largest norm over the blocks of a weight: heads, fused projections, convolution taps.

        ||x|| = max_b ||x_b||,   ||g||_* = sum_b ||g_b||_*

    `pattern` rearranges one weight, in the notation of einops: the last `norm.ndim` axes of its
    right side are a block, the axes before them count the blocks.

    >>> from modula.norms import Spectral
    >>> heads = Spectral().on("(h d) i -> h d i", h=2)
    >>> round(heads.dual(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))).item(), 4)
    10.0
    """

    norm: Norm
    pattern: str
    sizes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view.ndim_of_blocks < self.norm.ndim:
            needed = f"{self.norm} needs {self.norm.ndim} axes or more on its right side"
            self.view.refuse(needed)

    def __repr__(self) -> str:
        norm = f"({self.norm})" if isinstance(self.norm, Scaled) else f"{self.norm}"
        sizes = "".join(f", {axis}={size}" for axis, size in self.sizes)
        return f"{norm}.on({self.pattern!r}{sizes})"

    @cached_property
    def view(self) -> BlockView:
        """The blocks, whatever measures them."""
        return BlockView(self.pattern, self.sizes)

    @property
    def ndim(self) -> int:
        return self.view.ndim

    def __call__(self, x: Tensor) -> Tensor:
        return largest(self.each(self.norm, self.prepare(x))).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return self.each(self.norm.dual, self.prepare(g)).sum(-1).to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        return self.from_blocks(self.norm.duality_map(self.to_blocks(g)), g.shape)

    def nonzero_parts(self, g: Tensor) -> Tensor:
        blocks = self.to_blocks(g)
        return self.from_blocks(self.norm.nonzero_parts(blocks).expand_as(blocks), g.shape)

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        return self.move_each(self.norm.project, unit, radius)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        self.norm.check_shape(self.block_shape(shape))

    def block_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one block of a weight of this shape: what `norm` measures."""
        blocks = self.to_blocks(torch.empty(shape, device="meta"))
        return tuple(blocks.shape[blocks.ndim - self.norm.ndim :])

    def each(self, measure: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What is measured of each block, those of a weight in one dim: (..., number of blocks)."""
        found = measure(self.to_blocks(x))
        return flat(found, found.ndim - (x.ndim - self.ndim))

    def move_each(
        self, move: Callable[[Tensor, Tensor], Tensor], x: Tensor, number: Tensor
    ) -> Tensor:
        """Every block b moved to move(b, number), with one number for each weight: (...)."""
        blocks = self.to_blocks(x)
        numbers = add_dims(number, blocks.ndim - self.norm.ndim - number.ndim)
        return self.from_blocks(move(blocks, numbers), x.shape)

    def to_blocks(self, x: Tensor) -> Tensor:
        """The weights of x as blocks, whose last norm.ndim dims are one block."""
        self.prepare(x)
        return self.view.to_blocks(x)

    def from_blocks(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The exact inverse of to_blocks, for weights of this shape (with or without batch)."""
        return self.view.from_blocks(y, shape)
