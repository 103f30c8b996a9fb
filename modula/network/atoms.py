"""Modules with one weight each.

Every weight is called `weight`, starts at norm one (a bias at zero), and has mass 1.  Sensitivity
is 1: what the declared norm promises for a weight of norm at most one.  Another norm may be given;
it keeps that promise if it is nowhere smaller than the default.

Source: Large et al. 2024, arXiv:2405.14813; Bernstein and Newhouse 2024, arXiv:2410.21265.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.network.algebra import Atom, check_sizes
from modula.network.geometry import Geometry
from modula.norms.base import Norm
from modula.norms.operator import RMSToRMS, Rows
from modula.norms.vector import RMS, Max


class Linear(Atom):
    """y = W x, with W: (fan_out, fan_in) measured RMS to RMS.

    It starts semi-orthogonal, times sqrt(fan_out / fan_in).
    """

    def __init__(
        self,
        fan_out: int,
        fan_in: int,
        *,
        norm: Norm = RMSToRMS(),
        manifold: Manifold = Euclidean(),
        role: str = "hidden",
    ) -> None:
        check_sizes("Linear", fan_out=fan_out, fan_in=fan_in)
        super().__init__((fan_out, fan_in), Geometry(norm, manifold, role))

    def fresh(self) -> Tensor:
        return self.geometry["weight"].sample(self.weight)

    def extra_repr(self) -> str:
        return "{}, {}".format(*self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        _check_dim(self, x, -1, self.weight.shape[1])
        return F.linear(x, self.weight)


class Embedding(Atom):
    """y = W[token], with W: (vocab, dim) measured by the largest RMS of a row.

    Row v is the image of token v: this is the norm l1 -> RMS of the map from one-hot vectors.
    Every row starts at RMS 1; a step moves the rows of the tokens that were seen.
    """

    def __init__(
        self,
        dim: int,
        vocab: int,
        *,
        norm: Norm = Rows(RMS()),
        manifold: Manifold = Euclidean(),
    ) -> None:
        check_sizes("Embedding", dim=dim, vocab=vocab)
        super().__init__((vocab, dim), Geometry(norm, manifold, "embedding"))

    def fresh(self) -> Tensor:
        return self.geometry["weight"].sample(self.weight)

    def extra_repr(self) -> str:
        vocab, dim = self.weight.shape
        return f"{dim}, {vocab}"

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"{self} looks tokens up by number: expected int64 or int32, got {tokens.dtype}"
            )
        return F.embedding(tokens, self.weight)


class Conv2d(Atom):
    """y = W * x on images (..., fan_in, h, w), with W: (fan_out, fan_in, kernel, kernel).

        ||W|| = kernel^2 * max over taps of ||W_tap||_RMSToRMS

    Images are measured by the largest RMS of a pixel over its channels; a sum of kernel^2 taps
    of norm 1 / kernel^2 has sensitivity 1.  Every tap starts semi-orthogonal.
    """

    def __init__(
        self,
        fan_out: int,
        fan_in: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        norm: Norm | None = None,
        manifold: Manifold = Euclidean(),
    ) -> None:
        check_sizes("Conv2d", fan_out=fan_out, fan_in=fan_in, kernel=kernel, stride=stride)
        norm = norm or kernel**2 * RMSToRMS().on("o i h w -> h w o i")
        super().__init__((fan_out, fan_in, kernel, kernel), Geometry(norm, manifold, "conv"))
        self.stride, self.padding = stride, padding

    def fresh(self) -> Tensor:
        return self.geometry["weight"].sample(self.weight)

    def extra_repr(self) -> str:
        fan_out, fan_in, kernel, _ = self.weight.shape
        return f"{fan_out}, {fan_in}, {kernel}, stride={self.stride}, padding={self.padding}"

    def forward(self, x: Tensor) -> Tensor:
        _check_dim(self, x, -3, self.weight.shape[1])
        return F.conv2d(x, self.weight, stride=self.stride, padding=self.padding)


class Bias(Atom):
    """y = x + b, with b: (dim,) measured in RMS, starting at zero.

    The output may have norm ||x|| + ||b||: for a well-normed network, average it with what
    came before, as in 0.5 * (Bias(dim) @ a).
    """

    def __init__(self, dim: int, *, norm: Norm = RMS(), manifold: Manifold = Euclidean()) -> None:
        check_sizes("Bias", dim=dim)
        super().__init__((dim,), Geometry(norm, manifold, "bias"))

    def fresh(self) -> Tensor:
        return self.geometry["weight"].manifold.project(torch.zeros_like(self.weight))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}"

    def forward(self, x: Tensor) -> Tensor:
        _check_dim(self, x, -1, len(self.weight))
        return x + self.weight


class Gain(Atom):
    """y = g * x entry by entry, with g: (dim,) measured by its largest entry, starting at ones.

    The diagonal matrix of g has RMS -> RMS norm max_i |g_i|.
    """

    def __init__(self, dim: int, *, norm: Norm = Max(), manifold: Manifold = Euclidean()) -> None:
        check_sizes("Gain", dim=dim)
        super().__init__((dim,), Geometry(norm, manifold, "gain"))

    def fresh(self) -> Tensor:
        return self.geometry["weight"].manifold.project(torch.ones_like(self.weight))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}"

    def forward(self, x: Tensor) -> Tensor:
        _check_dim(self, x, -1, len(self.weight))
        return self.weight * x


def _check_dim(atom: Atom, x: Tensor, dim: int, size: int) -> None:
    """Broadcasting would let some wrong shapes through, and torch's own text names no module."""
    if x.ndim < -dim or x.shape[dim] != size:
        raise ValueError(f"{atom} expects {size} entries in dim {dim}, got {tuple(x.shape)}")
