"""Every norm, and the weights that its laws are tried on.  A new norm joins by a line in NORMS."""

from contextlib import suppress

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.norms.base import NoClosedForm, Norm
from modula.norms.from_dual import FromDual
from modula.norms.in_coordinates import InCoordinates, Quadratic
from modula.norms.ky_fan import KyFan, KyFanDual
from modula.norms.maps.linear import Elementwise
from modula.norms.operator import Columns, RMSToRMS, Rows
from modula.norms.over_blocks import RootOverBlocks, SumOverBlocks
from modula.norms.schatten import Schatten
from modula.norms.spectral import Nuclear, Spectral
from modula.norms.vector import L1, L2, RMS, Frobenius, Max, RMSDual
from strategies import matrices, vectors


def two_heads(x: Tensor) -> Tensor:
    """(out, in) -> (2 out, in)"""
    return torch.cat((x, -3 * x.flip(0)))


def two_by_two(x: Tensor) -> Tensor:
    """(out, in) -> (2 out, 2 in): at least two singular values."""
    return two_heads(two_heads(x).mT).mT


def taps(x: Tensor) -> Tensor:
    """(out, in) -> (out, in, 1, 3), a convolution with a dead tap."""
    return torch.stack((x, 0 * x, -3 * x.flip(0)), -1).unsqueeze(-2)


def ellipsoid(g: Tensor) -> Tensor:
    """A dual norm that a user may write: (out, in) -> number."""
    return torch.linalg.vector_norm(torch.cat((g, g.mean(0, keepdim=True))))


def scalars() -> st.SearchStrategy[Tensor]:
    return matrices().map(lambda x: x[0, 0])


NORMS: dict[Norm, st.SearchStrategy[Tensor]] = {
    L1(): vectors(),
    L2(): vectors(),
    RMS(): vectors(),
    RMSDual(): vectors(),
    Max(): vectors(),
    RMS(ndim=0): scalars(),
    L1(ndim=2): matrices(),
    Frobenius(): matrices(),
    RMS(ndim=4): matrices().map(taps),
    Max(ndim=2): matrices(),
    Spectral(): matrices(),
    Spectral(L2(), RMS()): matrices(),
    Spectral(RMS(), RMSDual()): matrices(),
    RMSToRMS(): matrices(),
    RMSToRMS().over(4): matrices().map(taps),
    Nuclear(): matrices(),
    Nuclear(RMS(), RMS()): matrices(),
    Schatten(1): matrices(),
    Schatten(1.2): matrices(),
    Schatten(3): matrices(),
    KyFan(2): matrices().map(two_by_two),
    KyFanDual(2): matrices().map(two_by_two),
    FromDual(ellipsoid): matrices(),
    InCoordinates(Max(2), Elementwise(torch.tensor(0.3, dtype=torch.float64))): matrices(),
    Quadratic(Elementwise(torch.tensor(0.3, dtype=torch.float64))): matrices(),
    Rows(RMS()): matrices(),
    Rows(RMSDual()): matrices(),
    Rows(L1()): matrices(),
    Columns(RMS()): matrices(),
    Columns(Max()): matrices(),
    Columns(2 * L1()): matrices(),
    2 * RMSToRMS(): matrices(),
    9 * RMSToRMS().on("o i h w -> h w o i"): matrices().map(taps),
    RMSToRMS().on("(h d) i -> h d i", h=2): matrices().map(two_heads),
    (3 * Nuclear()).on("(d h) i -> h i d", h=2): matrices().map(two_heads),
    SumOverBlocks(L2().on("o i -> o i")): matrices(),
    SumOverBlocks(RMSToRMS().on("o i h w -> h w o i")): matrices().map(taps),
    RootOverBlocks(Nuclear().on("(h d) i -> h d i", h=2)): matrices().map(two_heads),
    Columns(RMS()).on("(h d) i -> h d i", h=2).on("a b c -> c a b"): matrices().map(
        lambda x: two_heads(x).unsqueeze(-1)
    ),
}
SMOOTH_SHAPES = {0: (), 1: (5,), 2: (4, 3), 3: (4, 3, 1), 4: (4, 3, 1, 3)}


def has_projection(norm: Norm) -> bool:
    """Whether it says where the nearest point of its ball is."""
    try:
        norm.project(torch.ones(SMOOTH_SHAPES[norm.ndim]))
    except NoClosedForm:
        return False
    return True


def on_matrices() -> list[Norm]:
    """One norm of each kind, on matrices: the last in the table that can be read so."""
    found: dict[type[Norm], Norm] = {}
    for norm in NORMS:
        with suppress(ValueError):
            found[type(norm)] = norm.over(2)
    return list(found.values())


each_norm = pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm}-{norm.ndim}")
projectable = pytest.mark.parametrize(
    "norm", list(filter(has_projection, NORMS)), ids=lambda norm: f"{norm}-{norm.ndim}"
)
few = settings(max_examples=8)  # a norm: 34 of them make 272 shapes a law


def inner(x: Tensor, y: Tensor, ndim: int) -> Tensor:
    """<x, y> over the last `ndim` dims."""
    dims = range(max(x.ndim, y.ndim) - ndim, max(x.ndim, y.ndim))
    return (x * y).sum(tuple(dims)) if ndim else x * y


def like(x: Tensor, seed: int, *batch: int) -> Tensor:
    """Normal entries of the size of x's."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((*batch, *x.shape), dtype=x.dtype, generator=generator) * x.abs().max()


def smooth_point(norm: Norm, seed: int) -> Tensor:
    """A weight of full rank and without ties, where a dual norm has a gradient."""
    shape = SMOOTH_SHAPES[norm.ndim]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def assert_steepest(norm: Norm, t: Tensor, g: Tensor, tolerance: float = 1e-9) -> None:
    """t has norm one and attains the dual norm of g."""
    g, t = g.double(), t.double()
    one = torch.ones((), dtype=torch.float64)
    assert_close(norm(t), one, rtol=tolerance, atol=0.0)
    assert_close(inner(g, t, norm.ndim), norm.dual(g), rtol=tolerance, atol=0.0)
