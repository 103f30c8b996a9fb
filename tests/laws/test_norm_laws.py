"""Every norm keeps the promises of Norm: value, dual and duality map."""

import pytest
import torch
from every_norm import NORMS, assert_steepest, each_norm, few, inner, like, smooth_point
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from modula.norms.base import NoClosedForm, Norm
from sources import concrete
from strategies import seeds


def test_no_norm_is_left_out() -> None:
    assert {type(norm) for norm in NORMS} == concrete(Norm, "norms")


@each_norm
@few
@given(data=st.data())
def test_duality_map_has_norm_one_and_attains_the_dual_norm(
    norm: Norm, data: st.DataObject
) -> None:
    g = data.draw(NORMS[norm])
    assert_steepest(norm, norm.duality_map(g), g)


@each_norm
@few
@given(data=st.data(), factor=st.floats(0.01, 100))
def test_homogeneous_and_odd(norm: Norm, data: st.DataObject, factor: float) -> None:
    x = data.draw(NORMS[norm])
    assert_close(norm(-factor * x), factor * norm(x))
    assert_close(norm.dual(-factor * x), factor * norm.dual(x))
    assert_steepest(norm, norm.duality_map(factor * x), x)
    assert_close(norm.duality_map(-x), -norm.duality_map(x))


@each_norm
@few
@given(data=st.data(), seed=seeds())
def test_triangle_inequality(norm: Norm, data: st.DataObject, seed: int) -> None:
    x = data.draw(NORMS[norm])
    y = like(x, seed)
    for measure in (norm, norm.dual):
        assert measure(x + y) <= (measure(x) + measure(y)) * (1 + 1e-12)


@each_norm
@few
@given(data=st.data(), seed=seeds())
def test_no_tensor_beats_the_dual_norm(norm: Norm, data: st.DataObject, seed: int) -> None:
    g = data.draw(NORMS[norm])
    t = like(g, seed, 50)
    t = torch.cat((t, t.sign(), 0.1 * t + 10 * norm.duality_map(g) * g.abs().max()))
    assert (inner(g, t, norm.ndim) <= norm.dual(g) * norm(t) * (1 + 1e-12)).all()


@each_norm
def test_dual_norm_by_brute_force(norm: Norm) -> None:
    """Not one of 10 000 tensors beats it; that it is reached, the first law says."""
    g = smooth_point(norm, 1)
    t = like(g, 2, 5_000)
    t = torch.cat((t, t**5))  # spread out, and with few large entries
    best = (inner(g, t, norm.ndim) / norm(t)).max()
    assert 0.3 * norm.dual(g) < best <= norm.dual(g) * (1 + 1e-12)


@each_norm
@pytest.mark.parametrize("seed", range(3))
def test_duality_map_is_the_gradient_of_the_dual_norm(norm: Norm, seed: int) -> None:
    g, step = smooth_point(norm, seed), 1e-6
    e = like(g, seed + 100)
    slope = (norm.dual(g + step * e) - norm.dual(g - step * e)) / (2 * step)
    assert_close(slope, inner(e, norm.duality_map(g), norm.ndim), rtol=1e-6, atol=1e-7)


@each_norm
@few
@given(data=st.data(), seed=seeds())
def test_parts_are_measured_by_themselves(norm: Norm, data: st.DataObject, seed: int) -> None:
    g = data.draw(NORMS[norm])
    silenced = like(g, seed)
    silenced = silenced * (silenced > silenced.mean())
    parts = norm.nonzero_parts(silenced).expand_as(g)
    assert parts[silenced != 0].all()
    one, other = g.where(parts, 0.0), g.where(parts, torch.zeros_like(g)) - g
    assert_close(norm.duality_map(one), norm.duality_map(g).where(parts, 0.0))
    assert_close(norm.dual(one) + norm.dual(other), norm.dual(g))


@each_norm
@few
@given(data=st.data(), factor=st.floats(0.01, 100))
def test_rescaling_rule(norm: Norm, data: st.DataObject, factor: float) -> None:
    x = data.draw(NORMS[norm])
    assert_close((factor * norm)(x), factor * norm(x))
    assert_close((factor * norm).dual(x), norm.dual(x) / factor)
    assert_close((factor * norm).duality_map(x), norm.duality_map(x) / factor)


@each_norm
@few
@given(data=st.data(), seed=seeds())
def test_a_batch_is_a_loop(norm: Norm, data: st.DataObject, seed: int) -> None:
    x = data.draw(NORMS[norm])
    batch = torch.stack((x, 0 * x, *like(x, seed, 2))).unflatten(0, (2, 2))
    for measure in (norm, norm.dual, norm.duality_map):
        loop = torch.stack([measure(one) for one in batch.flatten(0, 1)]).unflatten(0, (2, 2))
        assert_close(measure(batch), loop)


@each_norm
@few
@given(data=st.data())
def test_the_dual_norm_swaps_value_and_dual(norm: Norm, data: st.DataObject) -> None:
    x = data.draw(NORMS[norm])
    try:
        dual = norm.dual_norm()
    except NoClosedForm as error:
        assert "is no object: use" in str(error)
        return
    assert_close(dual(x), norm.dual(x))
    assert_close(dual.dual(x), norm(x))
