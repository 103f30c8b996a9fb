"""Inverse roots against their definition, and what is kept where there is none."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments import root
from modula.kernels.moments.root import inverse_root, inverse_root_diagonal
from modula.kernels.moments.samples import rejected_moments
from strategies import seeds

Twin = Callable[..., Tensor]


def positive(n: int, seed: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, n + 2, generator=generator, dtype=torch.float64)
    return x @ x.mT


TWINS = pytest.mark.parametrize("twin", [inverse_root.plain, inverse_root.fused])


@TWINS
@given(seed=seeds(), n=st.integers(1, 8), power=st.sampled_from([0.25, 0.5, 1.0]))
def test_a_root_is_the_inverse_of_its_power(twin: Twin, seed: int, n: int, power: float) -> None:
    s = positive(n, seed)
    for scale in (1e-12, 1.0, 1e12):
        x = twin(scale * s, torch.zeros_like(s), power=power, damping=0.0)
        whole = torch.linalg.matrix_power(x, round(1 / power)) @ (scale * s)
        assert_close(whole, torch.eye(n, dtype=s.dtype).expand_as(s), rtol=1e-5, atol=1e-5)
        assert_close(x, x.mT)


@TWINS
def test_damping_has_the_unit_of_the_mean_eigenvalue(twin: Twin) -> None:
    s = torch.diag(torch.tensor([4.0, 2.0], dtype=torch.float64))
    x = twin(s, s, power=1.0, damping=0.5)
    assert_close(x.diagonal(), 1 / torch.tensor([5.5, 3.5], dtype=torch.float64))
    d = inverse_root_diagonal(s.diagonal(), s.diagonal(), power=1.0, damping=0.5)
    assert_close(d, x.diagonal())


@TWINS
def test_the_trace_is_taken_out_to_its_power(twin: Twin) -> None:
    s = positive(4, 0)
    x = twin(s, s, power=0.5, damping=0.0, trace_power=0.5)
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    assert_close(x, twin(s / trace**0.5, s, power=0.5, damping=0.0))


@TWINS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_factor_that_is_none_leaves_the_previous_root(twin: Twin, bad: float) -> None:
    s, previous = positive(3, 0), torch.randn(2, 3, 3, dtype=torch.float64)
    s[0] = bad * torch.eye(3, dtype=s.dtype) if bad <= 0 else s[0].fill_(bad)
    x = twin(s, previous, power=0.5, damping=0.0)
    assert_close(x[0], previous[0], rtol=0, atol=0)
    assert not torch.equal(x[1], previous[1])
    counted = rejected_moments(torch.tensor([3.0, 3.0]), s)
    assert counted.tolist() == [3.0 if bad == 0 else 4.0, 3.0]


# What LAPACK, cusolver and MAGMA say, of which only the first is torch's own class.
FAILURES = [
    torch.linalg.LinAlgError("linalg.eigh: (Batch element 0): The algorithm failed to converge"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling cusolverDnXsyevd"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_INVALID_VALUE"),
    RuntimeError("MAGMA_ssyevd_gpu: illegal parameter"),
]


@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_what_float32_cannot_decompose_is_tried_in_float64(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    eigh, s = torch.linalg.eigh, positive(3, 0).float()

    def fails(x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dtype == torch.float32 or always:
            raise error
        return eigh(x)

    always = False
    expected = inverse_root(s, s, power=0.5, damping=0.0)
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    assert_close(inverse_root(s, s, power=0.5, damping=0.0), expected, rtol=1e-3, atol=1e-3)
    always = True
    assert_close(inverse_root(s, s, power=0.5, damping=0.0), s, rtol=0, atol=0)


def test_memory_that_is_not_there_is_no_failed_decomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(x: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    with pytest.raises(torch.OutOfMemoryError):
        root.eigen(positive(3, 0))


@pytest.mark.parametrize(
    ("dtype", "floor"), [(torch.float32, 1.9e-6), (torch.float64, 3.6e-15)], ids=str
)
def test_the_floor_of_eigenvalues_is_the_stated_one(dtype: torch.dtype, floor: float) -> None:
    s = torch.diag(torch.tensor([1.0, 0.5, floor / 100], dtype=dtype))
    found = root.inverse_root_plain(s, s, power=0.5, damping=0.0).diagonal()
    assert_close(found[-1].item(), floor**-0.5, rtol=1e-2, atol=0)
    assert_close(found[1].item(), 0.5**-0.5, rtol=1e-5, atol=0)
