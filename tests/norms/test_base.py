"""What all norms share: scaling, blocks, and weights of other shapes."""

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.norms.base import MatrixNorm, Norm, Scaled
from modula.norms.operator import Columns, RMSToRMS, Rows
from modula.norms.spectral import Nuclear, Spectral
from modula.norms.vector import L1, L2, RMS, Max, RMSDual
from strategies import seeds

HEADS = RMSToRMS().on("(h d) i -> h d i", h=4)
TAPS = RMSToRMS().on("o i h w -> h w o i")
MATRIX_NORMS: list[MatrixNorm] = [
    Spectral(L2(), RMS()),
    RMSToRMS(),
    Nuclear(),
    Rows(RMSDual()),
    Rows(3 * L1()),
    Columns(RMS()),
    Columns(2 * Max()),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def test_scaling_collects_factors_and_prints() -> None:
    assert 2 * (3 * RMSToRMS()) == Scaled(RMSToRMS(), 6.0)
    assert str(2 * RMSToRMS()) == "2 * RMSToRMS()"
    assert str(0.5 * HEADS) == "0.5 * RMSToRMS().on('(h d) i -> h d i', h=4)"
    assert str((2 * RMS()).on("a b -> a b")) == "(2 * RMS()).on('a b -> a b')"


@pytest.mark.parametrize("factor", [0, -1, float("inf")])
def test_a_factor_must_be_positive_and_finite(factor: float) -> None:
    with pytest.raises(ValueError, match=r"\* RMSToRMS\(\) is no norm: the factor must be pos"):
        factor * RMSToRMS()


def test_heads_are_measured_one_by_one() -> None:
    w = normal(12, 5)
    heads = w.split(3)
    assert_close(HEADS(w), torch.stack([RMSToRMS()(head) for head in heads]).max())
    assert_close(HEADS.dual(w), torch.stack([RMSToRMS().dual(head) for head in heads]).sum())
    expected = torch.cat([RMSToRMS().duality_map(head) for head in heads])
    assert_close(HEADS.duality_map(w), expected)


def test_convolution_by_taps() -> None:
    """N(W) = k^2 max over taps; its dual and its steps carry 1 / k^2."""
    norm, g = 9 * TAPS, normal(4, 2, 3, 3)
    taps = [g[:, :, a, b] for a in range(3) for b in range(3)]
    nuclear = torch.stack([torch.linalg.svdvals(tap).sum() for tap in taps])
    assert_close(norm.dual(g), sqrt(4 / 2) * nuclear.sum() / 9)
    u, _, vh = torch.linalg.svd(g[:, :, 1, 2], full_matrices=False)
    assert_close(norm.duality_map(g)[:, :, 1, 2], sqrt(4 / 2) / 9 * (u @ vh))


@settings(max_examples=30)
@given(
    h=st.integers(1, 3),
    d=st.integers(1, 3),
    i=st.integers(1, 3),
    batch=st.lists(st.integers(1, 2), max_size=2),
    pattern=st.sampled_from(
        ["(h d) i -> h d i", "i (d h) -> h d i", "h d i -> (d h) i", "d (h i) 1 -> i (h d)"]
    ),
    seed=seeds(),
)
def test_from_blocks_undoes_to_blocks(
    h: int, d: int, i: int, batch: list[int], pattern: str, seed: int
) -> None:
    sizes = {"h": h} if "(" in pattern.split("->")[0] else {}
    norm = RMSToRMS().on(pattern, **sizes)
    shape = {"(h d) i": (h * d, i), "i (d h)": (i, d * h), "h d i": (h, d, i)}.get(
        pattern.split(" -> ")[0], (d, h * i, 1)
    )
    x = normal(*batch, *shape, seed=seed)
    blocks = norm.to_blocks(x)
    assert norm.ndim == len(shape)
    assert norm.block_shape(shape) == norm.block_shape(x.shape) == blocks.shape[-2:]
    assert torch.equal(norm.from_blocks(blocks, x.shape), x)
    assert torch.equal(norm.from_blocks(blocks, shape), x)


def test_blocks_of_blocks() -> None:
    w = normal(12, 4)
    nested = RMSToRMS().on("o (g i) -> g o i", g=2).on("(h d) i -> h d i", h=4)
    flat = RMSToRMS().on("(h d) (g i) -> h g d i", h=4, g=2)
    assert_close(nested(w), flat(w))
    assert_close(nested.dual(w), flat.dual(w))
    assert_close(nested.duality_map(w), flat.duality_map(w))


@pytest.mark.parametrize(
    ("pattern", "sizes", "message"),
    [
        ("(h d) i", {"h": 2}, "with h=2 .* one '->' and no '...'"),
        ("... i -> i ...", {}, "with no sizes .* one '->' and no '...'"),
        ("(h d) i -> h d i", {}, "with no sizes .* Could not infer sizes"),
        ("(h d) i -> h d i", {"h": 0}, "with h=0 .* whole numbers from 1 up"),
        ("(h d) i -> h d i", {"h": 2, "k": 3}, "with h=2, k=3 .* Axis k is not used"),
        ("(h d) i -> h d", {"h": 2}, "only on one side"),
        ("(h d i -> h d i", {"h": 2}, "Imbalanced parentheses"),
        ("(h d) -> (h d)", {"h": 2}, r"RMSToRMS\(\) needs 2 axes or more"),
    ],
)
def test_a_bad_pattern_is_refused_when_it_is_declared(
    pattern: str, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RMSToRMS().on(pattern, **sizes)


def test_sizes_that_do_not_fit_are_refused_with_the_shape() -> None:
    message = r"'\(h d\) i -> h d i' with h=4 does not cut a weight of shape \(6, 2\) into blocks"
    with pytest.raises(ValueError, match=message) as error:
        HEADS(normal(6, 2))
    assert error.value.__cause__ is None and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        HEADS.block_shape((6, 2))
    with pytest.raises(ValueError, match=message):
        HEADS.from_blocks(normal(4, 2, 2), (6, 2))
    with pytest.raises(ValueError, match="left side has 2 axes"):
        HEADS.from_blocks(normal(4, 2, 2), (8,))


@pytest.mark.parametrize("norm", MATRIX_NORMS, ids=str)
def test_a_matrix_norm_of_more_dims_flattens_all_but_the_first(norm: MatrixNorm) -> None:
    x = normal(5, 4, 2, 3, 1)
    flat = x.flatten(2)
    assert norm.over(2) == norm
    assert norm.over(4).ndim == 4
    assert_close(norm.over(4)(x), norm(flat))
    assert_close(norm.over(4).dual(x), norm.dual(flat))
    assert_close(norm.over(4).duality_map(x), norm.duality_map(flat).view(x.shape))
    assert_close((2 * norm).over(4)(x), 2 * norm(flat))


@pytest.mark.parametrize("norm", MATRIX_NORMS, ids=str)
def test_a_matrix_norm_names_what_it_is_on_one_column(norm: MatrixNorm) -> None:
    x = normal(5)
    column: Norm = norm.of_column
    assert_close(column(x), norm(x[:, None]))
    assert_close(column.dual(x), norm.dual(x[:, None]))
    assert_close(column.duality_map(x), norm.duality_map(x[:, None])[:, 0])
    with pytest.raises(ValueError) as error:
        norm.over(1)
    assert f"use {column}, which is {norm} of a matrix with one column" in str(error.value)
    with pytest.raises(ValueError) as error:
        (2 * norm).over(0)
    assert f"use {column}.over(0)" in str(error.value)


def test_blocks_keep_their_ndim() -> None:
    assert HEADS.over(2) == HEADS
    with pytest.raises(ValueError, match=r"h=4\) measures weights of 2 dims, not 3"):
        HEADS.over(3)


def test_printing_of_over() -> None:
    assert str(RMSToRMS().over(4)) == "RMSToRMS().on('o i1 i2 i3 -> o (i1 i2 i3)')"
