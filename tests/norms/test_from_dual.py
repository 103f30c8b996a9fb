"""Norms given by their duals: held to the norms that have formulas, and trained with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from modula import SteepestDescent, declare
from modula.norms import L1, L2, FromDual, KyFan, Max, Norm, Nuclear, Rows, Schatten, Spectral
from strategies import seeds


def nuclear(g: Tensor) -> Tensor:
    return torch.linalg.svdvals(g).sum()


def largest_or_mean(g: Tensor) -> Tensor:
    s = torch.linalg.svdvals(g)
    return torch.maximum(s[0], s.sum() / 2)


def row_lengths(g: Tensor) -> Tensor:
    return torch.linalg.vector_norm(g, dim=1).sum()


def p_norm(p: float) -> Callable[[Tensor], Tensor]:
    def singular(g: Tensor) -> Tensor:
        return torch.linalg.vector_norm(torch.linalg.svdvals(g), ord=p)

    return singular


PAIRS: list[tuple[Callable[[Tensor], Tensor], Norm, float]] = [
    # f, the norm with this dual, how far below the truth the value may be
    (torch.linalg.vector_norm, L2(ndim=2), 1e-12),
    (p_norm(1.5), Schatten(3), 1e-9),
    (p_norm(3), Schatten(1.5), 1e-9),
    (nuclear, Spectral(), 1e-2),
    (largest_or_mean, KyFan(2), 0.1),
    (row_lengths, Rows(L2()), 0.1),
    (lambda g: g.abs().sum(), Max(ndim=2), 0.3),
    (lambda g: g.abs().amax(), L1(ndim=2), 0.3),
]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("f", "same", "below"), PAIRS)
def test_it_is_the_norm_with_this_dual(
    f: Callable[[Tensor], Tensor], same: Norm, below: float
) -> None:
    norm, x = FromDual(f), random(2, 4, 3)
    assert_close(norm.dual(x), same.dual(x))
    assert_close(norm.duality_map(x), same.duality_map(x))
    value, truth = norm(x), same(x)
    assert (value <= truth * (1 + 1e-12)).all()
    assert (value >= truth * (1 - below)).all()


def test_one_line_trains_as_the_norm_it_is() -> None:
    def trained(norm: Norm) -> Tensor:
        layer = nn.Linear(3, 4, bias=False, dtype=torch.float64)
        layer.weight.data = random(4, 3)
        optimizer = SteepestDescent(declare(layer, {"weight": norm}), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(random(2, 3)).square().sum().backward()
            optimizer.step()
        return layer.weight.detach()

    assert_close(trained(FromDual(p_norm(1.5))), trained(Schatten(3)))


def test_zero_stays_zero_where_autograd_says_nan() -> None:
    norm = FromDual(lambda g: g.square().sum().sqrt())
    batch = torch.stack((torch.zeros(2, 2), torch.eye(2)))
    assert_close(norm.duality_map(batch), batch / 2**0.5)
    assert_close(norm(batch), torch.tensor([0.0, 2**0.5]))


def test_vectors_and_no_gradient_mode() -> None:
    norm = FromDual(lambda g: g.abs().sum() + torch.linalg.vector_norm(g), 1)
    with torch.no_grad():
        found = norm.duality_map(torch.tensor([3.0, -4.0, 0.0]))
    assert_close(found, torch.tensor([1.6, -1.8, 0.0]))
    assert str(norm) == "FromDual(<lambda>, 1)"


NUCLEAR_AND_MAX = 0.7, 0.4  # shares of a sum of two dual norms


@settings(max_examples=4)
@given(seed=seeds(), rows=st.integers(1, 6), columns=st.integers(1, 5))
def test_a_value_is_right_from_below_and_near(seed: int, rows: int, columns: int) -> None:
    """Max through its dual l1, Spectral through nuclear."""
    x, g = torch.randn(
        2, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    for f, same in ((lambda g: g.abs().sum(), Max(2)), (nuclear, Spectral())):
        norm = FromDual(f)
        assert 0.6 * same(x) <= norm(x) <= same(x) * (1 + 1e-12)
        assert_close(norm.dual(g), same.dual(g))
        assert_close(norm(norm.duality_map(g)), torch.ones((), dtype=x.dtype), rtol=1e-3, atol=0)


@settings(max_examples=4)
@given(seed=seeds())
def test_a_sum_of_two_duals_lies_between_its_parts(seed: int) -> None:
    """f = a nuclear + b max |g|:  x = y + z costs max(|y|_spectral / a, |z|_1 / b) at most."""
    a, b = NUCLEAR_AND_MAX
    norm = FromDual(lambda g: a * nuclear(g) + b * g.abs().amax())
    y, z, g = torch.randn(
        3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    assert norm(y + z) <= torch.maximum(Spectral()(y) / a, L1(2)(z) / b) * (1 + 1e-12)
    assert norm(y) <= torch.minimum(Spectral()(y) / a, L1(2)(y) / b) * (1 + 1e-12)
    assert norm(y) >= (y * g).sum() / norm.dual(g) * (1 - 1e-2)
    assert_close(norm.dual(g), a * Nuclear()(g) + b * Max(2)(g))
    d = norm.duality_map(g)
    assert_close((d * g).sum(), norm.dual(g))


def test_a_value_costs_no_more_than_so_many_looks_at_the_dual() -> None:
    """Where f has kinks the search goes on to its last iteration: 2 to 3 looks in each."""
    looks = []

    def counted(g: Tensor) -> Tensor:
        looks.append(1)
        return g.abs().sum() + torch.linalg.svdvals(g).sum()

    FromDual(counted)(random(64, 32))
    assert len(looks) < 900


def test_one_weight_is_a_batch_of_one() -> None:
    norm, x = FromDual(largest_or_mean), random(3, 4, 3)
    for take in (norm, norm.dual, norm.duality_map):
        assert_close(take(x[1]), take(x[1:2])[0], rtol=0, atol=0)
        assert_close(norm.dual(x)[1], norm.dual(x[1]))
        assert_close(norm.duality_map(x)[1], norm.duality_map(x[1]))


def test_what_is_no_function_is_no_dual_norm() -> None:
    not_callable: Any = 3
    with pytest.raises(ValueError, match="FromDual needs the dual norm as a function"):
        FromDual(not_callable)


@pytest.mark.parametrize("f", [lambda g: g.abs().sum().item(), lambda g: g.abs()])
def test_a_dual_norm_that_is_not_one_number_of_tensors(f: Any) -> None:
    with pytest.raises(ValueError, match=r"on \(3, 2\): f is to give one number"):
        FromDual(f).duality_map(torch.ones(3, 2))
