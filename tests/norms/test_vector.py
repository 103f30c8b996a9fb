"""Norms of vectors against their formulas."""

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from modula.norms.vector import L1, L2, RMS, Frobenius, Max, RMSDual, VectorNorm
from strategies import vectors

G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
FORMULAS = {
    L1: lambda x: sum(abs(v) for v in x),
    L2: lambda x: sqrt(sum(v * v for v in x)),
    RMS: lambda x: sqrt(sum(v * v for v in x) / len(x)),
    RMSDual: lambda x: sqrt(sum(v * v for v in x) * len(x)),
    Max: lambda x: max(abs(v) for v in x),
}
DUALS = {L1: Max, L2: L2, RMS: RMSDual, RMSDual: RMS, Max: L1}

each_kind = pytest.mark.parametrize("kind", FORMULAS)


@each_kind
@settings(max_examples=20)
@given(x=vectors())
def test_value_and_dual_are_the_formulas(kind: type[VectorNorm], x: Tensor) -> None:
    assert_close(kind()(x).item(), FORMULAS[kind](x.tolist()))
    assert_close(kind().dual(x).item(), FORMULAS[DUALS[kind]](x.tolist()))


@each_kind
def test_the_dual_of_the_dual_is_the_norm(kind: type[VectorNorm]) -> None:
    norm = kind(ndim=2)
    assert norm.dual_norm() == DUALS[kind](ndim=2)
    assert norm.dual_norm().dual_norm() == norm


@each_kind
def test_ndim_says_how_many_dims_are_one_vector(kind: type[VectorNorm]) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert_close(kind(ndim=3)(x), kind()(x.flatten(1)))
    assert_close(kind().over(2).duality_map(x), kind().duality_map(x.flatten(2)).view(x.shape))
    assert kind().over(2) == kind(ndim=2) != kind()


@each_kind
def test_one_entry_is_measured_by_its_size(kind: type[VectorNorm]) -> None:
    x = torch.tensor(-3.0)
    assert kind(ndim=0)(x) == kind(ndim=0).dual(x) == 3
    assert kind(ndim=0).duality_map(x) == -1


def test_max_entry_norm_of_a_matrix() -> None:
    norm = Max(ndim=2)
    assert norm(G) == 5
    assert norm.dual(G) == 12
    assert_close(norm.duality_map(G), torch.tensor([[1.0, 1], [0, 1]], dtype=torch.float64))


def test_l1_moves_one_of_the_largest_entries() -> None:
    g = torch.tensor([1.0, -2.0, 0.0, 2.0])
    t = L1().duality_map(g)
    assert L1()(t) == 1 and (t * g).sum() == 2 and t.count_nonzero() == 1


def test_frobenius() -> None:
    assert_close(Frobenius()(G).item(), sqrt(50))
    assert_close(Frobenius().duality_map(G), G / sqrt(50))
    assert str(Frobenius()) == "Frobenius()" and Frobenius() == L2(ndim=2)


def test_bias_direction_is_scion_bias_rms() -> None:
    """sqrt(m) g / ||g||_2"""
    g = G[0]
    assert_close(RMS().duality_map(g), sqrt(2) * g / 5)


def test_printing_hides_ndim() -> None:
    assert [str(kind(ndim=2)) for kind in (L1, RMS, RMSDual, Max)] == [
        "L1()",
        "RMS()",
        "RMSDual()",
        "Max()",
    ]


def test_negative_ndim_is_refused() -> None:
    with pytest.raises(ValueError, match="not ndim=-1"):
        RMS(ndim=-1)
