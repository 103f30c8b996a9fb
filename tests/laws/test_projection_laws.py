"""Every norm that has a projection keeps the promises of `project` and `prox`."""

import re

import pytest
import torch
from every_norm import NORMS, each_norm, few, inner, like, projectable, smooth_point
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.norms.base import NoClosedForm, Norm
from strategies import seeds


def in_ball(norm: Norm, y: Tensor, radius: float) -> Tensor:
    """The batch y, what lies outside the ball pulled on it."""
    shrink = (radius / norm(y)).nan_to_num(nan=1.0).clamp(max=1)
    return y * shrink[(..., *(None,) * norm.ndim)]


shares = st.floats(0.01, 1.2)  # of ||x||: the radius of a ball, beyond 1 with x inside it


@projectable
@few
@given(data=st.data(), share=shares, seed=seeds())
def test_projection_is_the_nearest_point_of_the_ball(
    norm: Norm, data: st.DataObject, share: float, seed: int
) -> None:
    """In the ball, and at no acute angle to any way on from there into the ball."""
    x = data.draw(NORMS[norm])
    radius = share * float(norm(x))
    p = norm.project(x, radius)
    assert norm(p) <= radius * (1 + 1e-12)
    assert_close(norm.project(p, radius), p, rtol=0, atol=1e-12 * float(x.abs().max()))
    y = like(x, seed, 50)
    y = in_ball(norm, torch.cat((y, radius * norm.duality_map(x - p + 0.1 * y))), radius)
    rounding = 1e-10 * float(x.square().sum())
    assert (inner(x - p, y - p, norm.ndim) <= rounding).all()
    assert_close(inner(x - p, p, norm.ndim), radius * norm.dual(x - p), rtol=1e-9, atol=rounding)


@projectable
@few
@given(data=st.data(), share=shares, seed=seeds())
def test_projection_is_non_expansive(
    norm: Norm, data: st.DataObject, share: float, seed: int
) -> None:
    x = data.draw(NORMS[norm])
    y, radius = like(x, seed), share * float(norm(x))
    moved = norm.project(x, radius) - norm.project(y, radius)
    assert moved.square().sum() <= (x - y).square().sum() * (1 + 1e-10)


@projectable
def test_a_point_of_the_ball_is_its_own_projection_to_the_bit(norm: Norm) -> None:
    x = smooth_point(norm, 0)
    for each in (x, x.float(), x.bfloat16()):
        assert torch.equal(norm.project(each, 1.01 * float(norm(x))), each)
        assert_close(norm.prox(each, 0.0), each)
    assert_close(norm.project(x, 0.0), 0 * x, rtol=0, atol=1e-15)
    assert_close(norm.prox(x, 1.01 * float(norm.dual(x))), 0 * x, rtol=0, atol=1e-14)


@projectable
@few
@given(data=st.data(), share=shares)
def test_moreau(norm: Norm, data: st.DataObject, share: float) -> None:
    """x - prox(x) is in the dual ball, and attains step ||prox(x)|| there."""
    x = data.draw(NORMS[norm])
    step = share * float(norm.dual(x))
    y = norm.prox(x, step)
    assert norm.dual(x - y) <= step * (1 + 1e-9)
    rounding = 1e-10 * float(x.square().sum())
    assert_close(inner(x - y, y, norm.ndim), step * norm(y), rtol=1e-9, atol=rounding)
    try:
        dual = norm.dual_norm()
    except NoClosedForm:
        return
    assert_close(y + dual.project(x, step), x, rtol=0, atol=1e-9 * float(x.abs().max()))


@projectable
@few
@given(data=st.data(), seed=seeds())
def test_a_batch_is_projected_as_a_loop_each_with_its_radius(
    norm: Norm, data: st.DataObject, seed: int
) -> None:
    x = data.draw(NORMS[norm])
    batch = torch.stack((x, 0 * x, *like(x, seed, 2))).unflatten(0, (2, 2))
    for move, measure in ((norm.project, norm), (norm.prox, norm.dual)):
        size = torch.tensor([[0.5, 1.0], [0.2, 1.1]], dtype=x.dtype) * measure(x)
        pairs = zip(batch.flatten(0, 1), size.flatten(), strict=True)
        loop = torch.stack([move(one, float(r)) for one, r in pairs]).unflatten(0, (2, 2))
        assert_close(move(batch, size), loop, rtol=1e-9, atol=1e-10 * float(x.abs().max()))


@projectable
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_projection_in_float32_is_near_float64_at_every_scale(norm: Norm, scale: float) -> None:
    x = smooth_point(norm, 0)
    for move, measure in ((norm.project, norm), (norm.prox, norm.dual)):
        size = 0.5 * float(measure(x))
        y = move((scale * x).float(), scale * size)
        assert y.dtype == torch.float32
        assert_close(y.double() / scale, move(x, size), rtol=1e-4, atol=1e-5)


@each_norm
def test_balls_and_steps_are_not_negative(norm: Norm) -> None:
    x = smooth_point(norm, 0)
    for move, what in ((norm.project, "radius"), (norm.prox, "step")):
        for number in (-1.0, float("nan"), torch.tensor(-1.0)):
            said = re.escape(f"{what}={float(number)} of {norm}: a {what} is 0 or more")
            with pytest.raises(ValueError, match=said):
                move(x, number)
