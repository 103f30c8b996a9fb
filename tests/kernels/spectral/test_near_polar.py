"""near_polar: the polar factor of a stepped weight, step after step."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.spectral.near_polar import near_polar
from modula.kernels.spectral.polar import exact_polar
from modula.kernels.tangent.stiefel import stiefel_map

SHAPES = [(1, 1), (4, 4), (5, 5), (9, 4), (3, 12, 7), (30, 1)]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("lr", "tolerance"), [(0.01, 1e-13), (0.1, 1e-9), (0.3, 3e-6)])
def test_a_step_is_brought_back_to_the_nearest_point(
    shape: tuple[int, ...], lr: float, tolerance: float
) -> None:
    w = exact_polar(gaussian(*shape))
    stepped = w - lr * stiefel_map(w, gaussian(*shape, seed=1))
    before = stepped.clone()
    assert_close(near_polar(stepped), exact_polar(stepped), atol=tolerance, rtol=0)
    assert_close(near_polar(2 * stepped, scale=3.0), 3 * exact_polar(stepped), atol=1e-5, rtol=0)
    assert torch.equal(stepped, before)


@pytest.mark.parametrize("lr", [1.0, 10.0, 1000.0])
def test_no_step_diverges(lr: float) -> None:
    """A gradient of rank one moves few columns: the singular values are as unequal as they get."""
    w = exact_polar(gaussian(20, 6))
    for seed in range(30):
        g = gaussian(20, 1, seed=seed) @ gaussian(1, 6, seed=seed + 100)
        w = near_polar(w - lr * stiefel_map(w, g))
        assert torch.linalg.matrix_norm(w, ord=2) <= 3
    for _ in range(40):
        w = near_polar(w)
    assert_close(w.mT @ w, torch.eye(6, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (3, 20, 8)], ids=str)
def test_lower_precision(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    w = exact_polar(gaussian(*shape)).to(dtype)
    back = near_polar(w)
    assert back.dtype == dtype
    assert_close(back.double(), w.double(), atol=4 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4)], ids=str)
def test_the_scale_does_not_matter(shape: tuple[int, int]) -> None:
    w = exact_polar(gaussian(*shape)).float()
    for scale in (1e-30, 1e30):
        assert_close(near_polar(scale * w), w, atol=1e-6, rtol=0)
        assert_close(near_polar(w, scale=scale) / scale, w, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("shape", "dtype"), [((9, 4), torch.float32), ((6, 6), torch.float32)])
def test_hundreds_of_steps_leave_no_drift(shape: tuple[int, int], dtype: torch.dtype) -> None:
    w, eye = exact_polar(gaussian(*shape)).to(dtype), torch.eye(shape[1], dtype=dtype)
    for seed in range(400):
        w = near_polar(w - 0.1 * stiefel_map(w, gaussian(*shape, seed=seed).to(dtype)))
    assert (w.mT @ w - eye).norm() <= 3e-6


def test_zeros_and_empty_batches_are_fine() -> None:
    assert torch.equal(near_polar(torch.zeros(2, 4, 3)), torch.zeros(2, 4, 3))
    assert near_polar(torch.zeros(0, 4, 3)).shape == (0, 4, 3)


def test_cost_is_a_few_products() -> None:
    assert near_polar.cost((64, 64)).flops == 10 * 64**3
    assert near_polar.cost((5, 256, 64)).flops == 5 * near_polar.cost((256, 64)).flops
