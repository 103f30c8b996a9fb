"""Averaged moments against einsum, and what a zero gradient leaves alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments import samples, second_moment
from modula.kernels.moments.structure import DIAGONAL, FULL
from modula.kernels.spectral.products import STRIP
from strategies import seeds

ONCE = {"share": 0.3, "beta": 0.9, "unbiased": False}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@given(seed=seeds(), ndim=st.integers(1, 3), dim=st.integers(-3, -1))
def test_moments_are_the_einsum_of_every_dim(seed: int, ndim: int, dim: int) -> None:
    dim = max(dim, -ndim)
    x = draw(2, *(3, 4, 5)[:ndim], seed=seed)
    size = x.shape[dim]
    letters = list("ijk"[:ndim])
    left, right = letters.copy(), letters.copy()
    left[dim], right[dim] = "y", "z"
    full = torch.einsum(f"b{''.join(left)},b{''.join(right)}->byz", x, x)
    seen, before = torch.full((2,), 3.0, dtype=x.dtype), draw(2, size, size, seed=seed + 1)
    after = second_moment.average_gram(before, x, seen, dim=dim, ndim=ndim, kind=FULL, **ONCE)
    assert_close(after, 0.9 * before + 0.1 * 0.3 * full)
    diagonal = second_moment.average_gram(
        before[..., 0], x, seen, dim=dim, ndim=ndim, kind=DIAGONAL, **ONCE
    )
    expected = full.diagonal(dim1=-2, dim2=-1)
    assert_close(diagonal, 0.9 * before[..., 0] + 0.1 * 0.3 * expected)


def test_large_moments_are_exactly_symmetric() -> None:
    x = draw(2 * STRIP + 30, 40).float()
    moment = second_moment.moment(x, FULL, dim=-2, ndim=2, share=1.0)
    assert torch.equal(moment, moment.mT)
    assert_close(moment, x @ x.mT, rtol=1e-4, atol=1e-4)


@given(beta=st.sampled_from([0.0, 0.5, 0.999]), count=st.integers(1, 20))
def test_an_unbiased_average_of_equal_samples_is_the_sample(beta: float, count: int) -> None:
    new, state = draw(3, 3), draw(3, 3, seed=1)
    for step in range(1, count + 1):
        seen = torch.tensor(float(step), dtype=new.dtype)
        state = second_moment.average_moment(state, new, seen, beta=beta, unbiased=True)
    assert_close(state, new)


def test_zero_gradients_are_no_samples() -> None:
    gradient = torch.stack([draw(2, 3), torch.zeros(2, 3, dtype=torch.float64)])
    seen = torch.tensor([4.0, 4.0])
    assert samples.tally(seen, gradient).tolist() == [5.0, 4.0]
    before = draw(2, 2, 2, seed=1)
    after = second_moment.average_gram(before, gradient, seen, dim=-2, ndim=2, kind=FULL, **ONCE)
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0])


def test_a_fit_begins_with_the_identity_at_the_size_of_the_first_gradient() -> None:
    gradient, factor = draw(2, 3, 5), torch.zeros(2, 3, 3, dtype=torch.float64)
    seen = torch.tensor([1.0, 2.0])
    begun = second_moment.first_scale(factor, gradient, seen, power=2.0, kind=FULL)
    eye = torch.eye(3, dtype=torch.float64)
    assert_close(begun[0], gradient[0].square().mean() * eye)
    assert torch.equal(begun[1], factor[1])


def test_a_moment_that_overflows_is_no_sample() -> None:
    x = torch.stack([torch.full((3, 4), 1e25), torch.ones(3, 4)])
    seen, before = torch.ones(2), torch.eye(3).expand(2, 3, 3)
    for kind, factor in ((FULL, before), (DIAGONAL, before[..., 0])):
        after = second_moment.average_gram(factor, x, seen, dim=-2, ndim=2, kind=kind, **ONCE)
        assert torch.equal(after[0], factor[0])
        assert not torch.equal(after[1], factor[1])
        assert after.isfinite().all()
