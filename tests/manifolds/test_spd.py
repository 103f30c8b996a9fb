"""SPD against closed forms and the geodesics of its own metric."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds.spd import SPD


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def point(n: int) -> Tensor:
    return random(n, n) @ random(n, n).mT + torch.eye(n, dtype=torch.float64)


def test_projection_lifts_eigenvalues_of_the_symmetric_part() -> None:
    """Symmetric part [[1, 2], [2, 1]]: eigenvalues 3 and -1 along (1, 1) and (1, -1)."""
    x = torch.tensor([[1.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[1.75, 1.25], [1.25, 1.75]], dtype=torch.float64)
    assert_close(SPD(floor=0.5).project(x), expected)


def test_residual() -> None:
    assert_close(SPD().residual(torch.tensor([[4.0, 0.0], [0.0, -3.0]])), torch.tensor(0.6))
    assert_close(SPD().residual(torch.tensor([[0.0, 1.0], [-1.0, 0.0]])), torch.tensor(1.0))
    assert_close(SPD().residual(1e-30 * torch.eye(3)), torch.tensor(0.0))
    assert_close(SPD().residual(torch.zeros(2, 3, 3)), torch.zeros(2))


def test_a_number() -> None:
    """For 1 x 1: w + v + v^2 / (2 w)."""
    w, v = torch.tensor([[2.0]]), torch.tensor([[-3.0]])
    assert_close(SPD().retract(w, v), torch.tensor([[1.25]]))


def test_retraction_agrees_with_the_geodesic_to_second_order() -> None:
    w, v = point(5), SPD().to_tangent(point(5), random(5, 5, seed=1))
    steps = [1e-2 * 0.5**k for k in range(4)]
    geodesics = [w @ torch.linalg.matrix_exp(torch.linalg.solve(w, t * v)) for t in steps]
    errors = [(SPD().retract(w, t * v) - g).norm() for t, g in zip(steps, geodesics, strict=True)]
    slope = torch.log2(errors[0] / errors[-1]) / 3
    assert_close(slope, torch.tensor(3.0, dtype=torch.float64), atol=0.05, rtol=0)


@pytest.mark.parametrize("length", [1.0, 1e3, 1e6])
def test_no_step_is_too_long(length: float) -> None:
    w, v = point(4), random(4, 4, seed=1)
    landed = SPD().retract(w, length * SPD().to_tangent(w, v))
    assert_close(landed, landed.mT, atol=0, rtol=1e-12)
    spread = torch.linalg.eigvalsh(landed)
    # At least W / 2, up to the rounding of what was added.
    assert spread[0] >= torch.linalg.eigvalsh(w)[0] / 2 - 1e-12 * spread[-1]


def test_retraction_forgives_a_point_that_drifted_off() -> None:
    w = torch.diag(torch.tensor([1.0, -1e-3], dtype=torch.float64))
    landed = SPD(floor=0.5).retract(w, torch.zeros(2, 2, dtype=torch.float64))
    assert_close(landed, torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64)))


def test_a_matrix_that_is_not_square_is_told() -> None:
    for ask in (SPD().check_shape, SPD().sample):
        with pytest.raises(ValueError, match=r"square matrices with entries, got shape \(3, 2\)"):
            ask((3, 2))
    with pytest.raises(ValueError, match="at least 2 dims"):
        SPD().check_shape((3,))


@pytest.mark.parametrize("floor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_floor_is_positive(floor: float) -> None:
    with pytest.raises(ValueError, match="positive, finite floor"):
        SPD(floor)
