"""Every norm in every precision, at every scale, on nothing and on nonsense; and as a value."""

from collections.abc import Callable

import pytest
import torch
from every_norm import (
    NORMS,
    SMOOTH_SHAPES,
    assert_steepest,
    each_norm,
    ellipsoid,
    few,
    smooth_point,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import modula.norms
from modula.norms.base import Norm
from modula.norms.in_coordinates import InCoordinates, Quadratic


@each_norm
def test_inputs_are_unchanged_and_not_shared(norm: Norm) -> None:
    x = smooth_point(norm, 0)
    before = x.clone()
    for measure in (norm, norm.dual, norm.duality_map):
        measure(x).mul_(2)
    assert torch.equal(x, before)


@each_norm
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_zero_in_zero_out(norm: Norm, dtype: torch.dtype) -> None:
    zero = torch.zeros(SMOOTH_SHAPES[norm.ndim], dtype=dtype)
    number = torch.zeros((), dtype=dtype)
    assert_close(norm(zero), number, rtol=0, atol=0)
    assert_close(norm.dual(zero), number, rtol=0, atol=0)
    assert_close(norm.duality_map(zero), zero, rtol=0, atol=0)


@each_norm
@few
@given(data=st.data(), scale=st.sampled_from([1e-30, 1e-20, 1.0, 1e20, 1e30]))
def test_float32_is_near_float64_at_every_scale(
    norm: Norm, data: st.DataObject, scale: float
) -> None:
    x = data.draw(NORMS[norm])
    x = x / x.abs().max()
    x32 = (scale * x).float()
    x = x32.double() / scale
    for measure in (norm, norm.dual):
        assert measure(x32).dtype == torch.float32
        assert_close(measure(x32).double() / scale, measure(x), rtol=1e-5, atol=0.0)
    assert norm.duality_map(x32).dtype == torch.float32
    assert_steepest(norm, norm.duality_map(x32), x, tolerance=1e-5)


@each_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(norm: Norm, dtype: torch.dtype) -> None:
    x = smooth_point(norm, 0).to(dtype)
    for measure in (norm, norm.dual, norm.duality_map):
        assert_close(measure(x), measure(x.double()).to(dtype))


@each_norm
def test_a_nan_is_never_hidden(norm: Norm) -> None:
    x = smooth_point(norm, 0)
    x.view(-1)[0] = torch.nan
    measures: tuple[Callable[[Tensor], Tensor], ...] = (norm, norm.dual, norm.duality_map)
    for measure in measures:
        try:
            assert measure(x).isnan().any()
        except torch.linalg.LinAlgError as error:  # torch's SVD refuses it: as good
            assert "non-finite" in str(error)


@each_norm
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
def test_empty_weights(norm: Norm, shape: tuple[int, int]) -> None:
    x = torch.zeros(*shape, *(1,) * (norm.ndim - 2))
    assert norm.duality_map(x).shape == x.shape
    if norm.ndim >= 2:
        assert norm(x) == norm.dual(x) == 0


@each_norm
def test_wrong_tensors_are_refused_by_name(norm: Norm) -> None:
    wrong = [torch.ones(SMOOTH_SHAPES[norm.ndim], dtype=torch.int64)]
    wrong += [torch.ones((2,) * (norm.ndim - 1))] if norm.ndim else []
    for x in wrong:
        for measure in (norm, norm.dual, norm.duality_map):
            with pytest.raises(ValueError, match="measures the last . dims of a floating-point"):
                measure(x)


@pytest.mark.parametrize(
    "norm", [norm for norm in NORMS if not isinstance(norm, InCoordinates | Quadratic)], ids=str
)  # which holds tensors
def test_norms_are_values(norm: Norm) -> None:
    assert norm.over(norm.ndim) == norm
    again = eval(str(norm), vars(modula.norms) | {"ellipsoid": ellipsoid})
    if again.ndim == norm.ndim:  # vector norms do not print theirs
        assert again == norm and hash(again) == hash(norm)
    else:
        assert again.over(norm.ndim) == norm
