"""UnitConditionNumber against closed forms, Stiefel and a search over the scale."""

import pytest
import torch
from torch.testing import assert_close

from modula.manifolds.stiefel import Stiefel
from modula.manifolds.unit_condition_number import UnitConditionNumber


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_projection_of_two_by_two() -> None:
    """[[3, 4], [0, 5]]: polar factor (2, 1; -1, 2) / sqrt 5, nuclear norm sqrt 80."""
    x = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([[4.0, 2.0], [-2.0, 4.0]], dtype=torch.float64)
    assert_close(UnitConditionNumber().project(x), expected)


def test_no_other_scale_is_nearer() -> None:
    """The nearest point is on one of the Stiefel manifolds: try them all."""
    x = random(7, 4)
    distances = [(x - Stiefel(float(s)).project(x)).norm() for s in torch.linspace(0.1, 4, 400)]
    nearest = (x - UnitConditionNumber().project(x)).norm()
    assert_close(nearest, torch.stack(distances).min(), atol=1e-3, rtol=0)
    assert nearest <= torch.stack(distances).min()


def test_tangents_are_those_of_stiefel_and_the_scaling() -> None:
    w = Stiefel(2.5).project(random(6, 3))
    v = random(6, 3, seed=1)
    along = w * (w * v).sum() / w.square().sum()  # the scaling is orthogonal to Stiefel
    tangent = UnitConditionNumber().to_tangent(w, v)
    assert_close(tangent, Stiefel(2.5).to_tangent(w, v) + along)
    defect = w.mT @ tangent + tangent.mT @ w
    assert_close(defect, torch.eye(3, dtype=torch.float64) * defect[0, 0])


def test_the_scale_is_free() -> None:
    w = UnitConditionNumber().project(random(5, 3))
    assert_close(UnitConditionNumber().to_tangent(w, w), w)
    assert_close(UnitConditionNumber().retract(w, 0.5 * w), 1.5 * w)
    assert_close(UnitConditionNumber().project(1e-6 * random(5, 3)), 1e-6 * w)


def test_one_column_is_any_vector() -> None:
    x, v = random(5, 1), random(5, 1, seed=1)
    assert_close(UnitConditionNumber().project(x), x)
    assert_close(UnitConditionNumber().to_tangent(x, v), v)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_every_answer_survives_every_scale(scale: float) -> None:
    manifold = UnitConditionNumber()
    w, v = manifold.project(random(6, 3)).float(), random(6, 3, seed=1).float()
    tangent = manifold.to_tangent(w, v)
    assert_close(manifold.to_tangent(scale * w, v), tangent)
    assert_close(manifold.retract(scale * w, scale * v) / scale, manifold.retract(w, v))
    assert manifold.residual(scale * w) < 1e-5


def test_zero_becomes_the_smallest_columns_of_the_identity() -> None:
    tiny = torch.finfo(torch.float32).tiny
    assert torch.equal(UnitConditionNumber().project(torch.zeros(3, 2)), tiny * torch.eye(3, 2))


def test_residual() -> None:
    x = torch.diag(torch.tensor([1.0, 3.0]))  # s^2 = 5, so W^T W / s^2 = diag(.2, 1.8)
    assert_close(UnitConditionNumber().residual(x), torch.tensor(0.8 * 2**0.5))


def test_a_wide_matrix_is_told_to_be_transposed() -> None:
    for ask in (UnitConditionNumber().check_shape, UnitConditionNumber().sample):
        with pytest.raises(ValueError, match=r"got shape \(2, 3\): transpose the weight"):
            ask((2, 3))
    with pytest.raises(ValueError, match="without entries"):
        UnitConditionNumber().check_shape((3, 0))
