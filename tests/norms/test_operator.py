"""Induced norms against their definition: the largest stretch."""

from itertools import product
from math import pi, sqrt

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from modula.norms import operator as operator_by_its_public_name
from modula.norms.base import NoClosedForm, Norm
from modula.norms.from_dual import FromDual
from modula.norms.operator import Columns, RMSToRMS, Rows, operator
from modula.norms.spectral import Spectral
from modula.norms.vector import L1, L2, RMS, Max, RMSDual, VectorNorm
from strategies import matrices, seeds

VECTOR_NORMS = (L1(), L2(), RMS(), RMSDual(), Max())
HARD = [(Max(), q) for q in (L1(), L2(), RMS(), RMSDual())]
HARD += [(p, L1()) for p in (L2(), RMS(), RMSDual())]
EASY = [pair for pair in product(VECTOR_NORMS, VECTOR_NORMS) if pair not in HARD]
G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)


def random_matrix(fan_out: int, fan_in: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(fan_out, fan_in, dtype=torch.float64, generator=generator)


def largest_stretch(w: Tensor, domain: VectorNorm, codomain: VectorNorm) -> Tensor:
    """Over a fine grid of all directions of the plane: w is (out, 2)."""
    angle = torch.arange(8000, dtype=torch.float64) * (pi / 8000)  # meets the axes and diagonals
    x = torch.stack((angle.cos(), angle.sin()), -1)
    return (codomain(x @ w.mT) / domain(x)).max()


@pytest.mark.parametrize(("domain", "codomain"), EASY, ids=str)
@pytest.mark.parametrize("fan_out", [1, 2, 5])
def test_operator_is_the_largest_stretch_of_the_plane(
    domain: VectorNorm, codomain: VectorNorm, fan_out: int
) -> None:
    w = random_matrix(fan_out, 2, fan_out)
    expected = largest_stretch(w, domain, codomain)
    assert_close(operator(domain, codomain)(w), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("domain", "codomain"), EASY, ids=str)
@settings(max_examples=10)
@given(w=matrices(), seed=seeds())
def test_no_vector_is_stretched_more_and_one_is_stretched_as_much(
    domain: VectorNorm, codomain: VectorNorm, w: Tensor, seed: int
) -> None:
    fan_in = w.shape[1]
    extremal = (  # (number, in)
        torch.eye(fan_in, dtype=torch.float64),  # corners of the ball of L1
        domain.duality_map(w),  # where one output entry is largest
        torch.linalg.svd(w).Vh,
    )
    x = torch.cat((*extremal, random_matrix(100, fan_in, seed)))
    stretch = codomain(x @ w.mT) / torch.where(domain(x) > 0, domain(x), 1)
    assert_close(stretch.max(), operator(domain, codomain)(w))


@pytest.mark.parametrize(("domain", "codomain"), HARD, ids=str)
def test_a_hard_pair_is_refused_with_an_upper_bound(
    domain: VectorNorm, codomain: VectorNorm
) -> None:
    inner = RMS() if domain == Max() else domain
    outer = RMSDual() if codomain == L1() else codomain
    message = f"operator({domain}, {codomain}) has no closed form: it is NP-hard"
    with pytest.raises(NoClosedForm) as error:
        operator(domain, codomain)
    assert str(error.value).startswith(message)
    assert f"operator({inner}, {outer}), which is never smaller" in str(error.value)
    for seed in range(5):
        w = random_matrix(3, 2, seed)
        assert largest_stretch(w, domain, codomain) <= operator(inner, outer)(w)


def test_named_pairs() -> None:
    assert operator(RMS(), RMS()) == RMSToRMS() == Spectral(RMS(), RMS())
    assert operator(L1(), Max()) == Max(ndim=2)
    assert operator(L1(), RMS()) == Columns(RMS())
    assert operator(RMS(), Max()) == Rows(RMSDual())
    assert operator(Max(), Max()) == Rows(L1())
    assert operator_by_its_public_name is operator


def test_multiples_and_norms_of_ones_own_stretch_as_the_corners_of_a_ball_say() -> None:
    w = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = FromDual(lambda g: g.abs().amax() + torch.linalg.vector_norm(g), ndim=1)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    for domain, codomain, corners in (
        (2.0 * L1(), 3.0 * RMS(), torch.eye(4, dtype=torch.float64) / 2),
        (0.5 * Max(), 3.0 * Max(), 2 * signs),
        (L1(), own, torch.eye(4, dtype=torch.float64)),
        (2.0 * L1(), 3.0 * own, torch.eye(4, dtype=torch.float64) / 2),
    ):
        largest = max(float(codomain(w @ x)) for x in corners)
        assert_close(float(operator(domain, codomain)(w)), largest)
    with pytest.raises(NoClosedForm, match=r"operator\(L2\(\), L1\(\)\)"):
        operator(2.0 * L2(), L1())


def test_rows_and_columns_oracles() -> None:
    columns = torch.tensor([[1.0, 4 / sqrt(41)], [0.0, 5 / sqrt(41)]], dtype=torch.float64)
    rows = torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    assert_close(Columns(L2()).dual(G).item(), 3 + sqrt(41))
    assert_close(Columns(L2()).duality_map(G), columns)
    assert_close(Rows(L2()).dual(G).item(), 10.0)
    assert_close(Rows(L2()).duality_map(G), rows)
    assert Rows(L1())(G) == 7 and Rows(L1()).dual(G) == 9
    assert Columns(L1())(G) == 9 and Columns(L1()).dual(G) == 8


def test_an_embedding_moves_only_the_rows_it_saw() -> None:
    """sqrt(d) g_v / ||g_v|| for every token v with a gradient, even a tiny one."""
    g = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-1e-30, 0.0]])
    expected = sqrt(2) * torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]])
    assert_close(Rows(RMS()).duality_map(g), expected)
    assert_close(Columns(RMS()).duality_map(g.mT), expected.mT)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: operator(Max(ndim=2), RMS()), r"operator needs .*; got Max\(\), over 2 dims"),
        (lambda: operator(L1(), "rms"), r"operator needs .*; got 'rms'"),
        (lambda: Spectral(L1(), L2()), r"Spectral needs .* L2\(\), RMS\(\) .*; got L1\(\)"),
        (lambda: Rows(RMSToRMS()), r"Rows needs .* such as RMS\(\).*; got RMSToRMS\(\), over 2"),
        (lambda: Columns(L2(ndim=2)), r"Columns needs .*; got Frobenius\(\), over 2 dims"),
    ],
)
def test_wrong_parts_are_refused_by_name(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=message):
        build()


def test_printing() -> None:
    norms: list[Norm] = [RMSToRMS(), Spectral(), Spectral(RMS(), L2()), Rows(RMS()), Columns(L1())]
    assert [str(norm) for norm in norms] == [
        "RMSToRMS()",
        "Spectral()",
        "Spectral(RMS(), L2())",
        "Rows(RMS())",
        "Columns(L1())",
    ]
