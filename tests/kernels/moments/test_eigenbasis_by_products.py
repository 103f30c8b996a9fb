"""Bases that follow a factor by matrix products, against QR and eigendecompositions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from devices import remote
from modula.kernels.moments.eigenbasis import next_basis, off_diagonal
from modula.kernels.moments.eigenbasis_by_products import LARGEST, first_order_rotation, orthonormal
from strategies import seeds

DTYPE = torch.float64
SIDE = 64
STEPS = (1, 2, 5, 10)
# Share off the diagonal after so many steps on one factor of condition 1e4 and side 64.
QR = {0.01: (7e-4, 3e-4, 7e-5, 2.5e-5), 0.5: (3.6e-2, 1.5e-2, 3.7e-3, 1.3e-3)}
GAPS = {0.01: (1e-4, 5e-6, 5e-15, 5e-15), 0.5: (3.6e-2, 1.5e-2, 3.7e-4, 1e-5)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def turned(angle: float, side: int = SIDE, seed: int = 0) -> Tensor:
    """A rotation whose largest angle is this."""
    skew = draw(side, side, seed=seed)
    skew = skew - skew.mT
    return torch.matrix_exp(angle / torch.linalg.matrix_norm(skew, ord=2) * skew)


def case(angle: float, values: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A factor with these eigenvalues, and its eigenbasis turned by the angle."""
    side = len(values)
    q = torch.linalg.qr(draw(side, side, seed=seed))[0]
    return (q * values) @ q.mT, q @ turned(angle, side, seed + 1)


def off(s: Tensor, q: Tensor) -> float:
    s, q = s.double(), q.double()
    return float(off_diagonal(q.mT @ s @ q))


def follow(twin: str, s: Tensor, q: Tensor, steps: int) -> list[Tensor]:
    """The bases after 1, 2, ... steps."""
    bases, old = [q], torch.tensor([50.0])
    for _ in range(steps):
        new = getattr(next_basis, twin)(s[None], bases[-1][None], old, young=1, tolerance=0.0)
        bases.append(new[0])
    return bases[1:]


@pytest.mark.parametrize("angle", [0.01, 0.5])
@pytest.mark.parametrize(("twin", "bounds"), [("plain", QR), ("fused", GAPS)])
def test_how_fast_a_basis_finds_a_factor(
    angle: float, twin: str, bounds: dict[float, tuple[float, ...]]
) -> None:
    """The table of tracking, within a factor 1.5: spectra and drawn rotations differ."""
    s, q = case(angle, torch.logspace(0, -4, SIDE, dtype=DTYPE))
    bases = follow(twin, s, q, max(STEPS))
    for step, bound in zip(STEPS, bounds[angle], strict=True):
        assert off(s, bases[step - 1]) <= 1.5 * bound
    assert_close(bases[-1].mT @ bases[-1], torch.eye(SIDE, dtype=DTYPE))


def test_it_follows_a_moving_average_more_closely_than_qr() -> None:
    """Renewed every ten steps of an average over twenty: shares off the diagonal of 0.05."""
    side, length = 24, torch.logspace(0, -2, 24, dtype=DTYPE)
    s = torch.diag(length.square())
    bases = {twin: torch.eye(side, dtype=DTYPE) for twin in ("plain", "fused")}
    shares = {twin: list[float]() for twin in bases}
    for step in range(300):
        g = length[:, None] * draw(side, 32, seed=step)
        s = torch.lerp(s, g @ g.mT / 32, 0.05)
        if step % 10 == 0:
            for twin in bases:
                bases[twin] = follow(twin, s, bases[twin], 1)[0]
                shares[twin].append(off(s, bases[twin]))
    assert sum(shares["fused"]) < 0.6 * sum(shares["plain"])


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
@pytest.mark.parametrize("spectrum", ["rank 1", "rank 8", "dead rows", "flat", "pairs"])
def test_it_follows_where_eigenvalues_are_zero_or_equal(spectrum: str, dtype: torch.dtype) -> None:
    values = {
        "rank 1": (torch.arange(32) < 1).to(DTYPE),
        "rank 8": torch.logspace(0, -2, 32, dtype=DTYPE) * (torch.arange(32) < 8),
        "dead rows": torch.logspace(0, -2, 32, dtype=DTYPE),
        "flat": torch.full((32,), 0.01, dtype=DTYPE) + (torch.arange(32) < 2),
        "pairs": torch.logspace(0, -3, 16, dtype=DTYPE).repeat_interleave(2),
    }[spectrum]
    s, q = (x.to(dtype) for x in case(0.4, values))
    if spectrum == "dead rows":
        s[:, 10:20] = 0
        s[10:20] = 0
    found = follow("fused", s, q, 20)[-1]
    assert off(s, found) < max(1e-6, 1e-3 * off(s, q))
    assert_close(found.mT @ found, torch.eye(32, dtype=dtype), rtol=0, atol=1e-5)


@pytest.mark.parametrize("angle", [0.05, 2.0])
def test_on_cuda_old_bases_are_renewed_without_waiting(angle: float) -> None:
    cases = [case(angle, torch.logspace(0, -2, 8, dtype=DTYPE), seed) for seed in range(3)]
    s, q = (torch.stack(each) for each in zip(*cases, strict=True))
    old = torch.full((3,), 50.0)
    found = next_basis(remote(s), remote(q), old, young=10, tolerance=0.01)
    for one, *each in zip(found.as_subclass(Tensor), s, q, strict=True):
        assert_close(one, follow("fused", *each, 1)[0])
    with pytest.raises(AssertionError, match="waits"):
        next_basis(remote(s), remote(q), old, young=60, tolerance=0.0)


def test_far_from_the_eigenbasis_it_is_orthogonal_iteration() -> None:
    s, q = case(2.0, torch.logspace(0, -3, 16, dtype=DTYPE))
    assert off(s, q) > 0.1
    signs = follow("fused", s, q, 1)[0].mT @ follow("plain", s, q, 1)[0]
    assert_close(signs.abs(), torch.eye(16, dtype=DTYPE), rtol=0, atol=1e-3)


@given(seed=seeds(), angle=st.sampled_from([1e-3, 1e-5]))
def test_errors_are_squared(seed: int, angle: float) -> None:
    values = torch.linspace(1, 2, 6, dtype=DTYPE).flip(0)
    s, q = case(angle, values, seed % 2**30)
    assert off(s, follow("fused", s, q, 1)[0]) < 20 * angle**2 + 1e-14


def test_a_rotation_is_skew_and_bounded() -> None:
    share = torch.tensor([[2.0, 0.1, 5.0], [0.1, 1.0, 0.0], [5.0, 0.0, 2.0]], dtype=DTYPE)
    x = first_order_rotation(share)
    assert_close(x, -x.mT)
    assert_close(x[0, 1], torch.tensor(0.1 / (1.0 - 2.0), dtype=DTYPE))
    assert abs(x[0, 2]) == LARGEST and x[1, 2] == 0
    assert first_order_rotation(torch.eye(3)).count_nonzero() == 0


@given(seed=seeds(), m=st.integers(1, 10), batch=st.integers(1, 3))
def test_cholesky_twice_is_qr(seed: int, m: int, batch: int) -> None:
    x = draw(batch, m + 2, m, seed=seed % 2**30)
    q, r = torch.linalg.qr(x)
    assert_close(orthonormal(x), q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2))


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-4), (DTYPE, 1e-5)])
def test_columns_nearly_parallel_are_told_apart(dtype: torch.dtype, apart: float) -> None:
    x = torch.ones(8, 4, dtype=dtype) + apart * draw(8, 4).to(dtype)
    q, eps = orthonormal(x), torch.finfo(dtype).eps
    assert_close(q.mT @ q, torch.eye(4, dtype=dtype), rtol=0, atol=8 * eps)
    assert orthonormal(torch.zeros(3, 2)).isnan().all()
