"""Linear maps keep their promises: transpose, inverse, and maps along a dim."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from linear_maps import SHAPE, draw, every_map, invertible
from modula.norms import (
    InCoordinates,
    LinearMap,
    Spectral,
)
from modula.norms.maps.linear import (
    Along,
    Rotation,
    along,
)
from sources import concrete
from strategies import seeds


def test_no_map_is_left_out() -> None:
    assert {type(each) for each in every_map(0)} == concrete(LinearMap, "norms")


@given(seed=seeds())
def test_transpose_and_inverse_are_what_they_say(seed: int) -> None:
    seed = seed % 2**30
    x, y = draw(*SHAPE, seed=seed), draw(*SHAPE, seed=seed + 7)
    for each in every_map(seed):
        assert_close((each.apply(x) * y).sum(), (x * each.transpose(y)).sum())
        assert_close(each.inverse(each.apply(x)), x, rtol=1e-6, atol=1e-8)
        assert_close(each.transpose(each.inverse_transpose(x)), x, rtol=1e-6, atol=1e-8)


@given(seed=seeds(), dim=st.sampled_from([-3, -2, -1]))
def test_along_is_the_einsum_of_a_tensor_of_three_dims(seed: int, dim: int) -> None:
    x = draw(2, 3, 4, 5, seed=seed % 2**30)  # a batch of two
    matrix = draw(2, x.shape[dim], x.shape[dim], seed=1)
    letters = ["i", "j", "k"]
    letters[dim] = "z"
    out = "".join("y" if each == "z" else each for each in letters)
    expected = torch.einsum(f"b{''.join(letters)},byz->b{out}", x, matrix)
    assert_close(along(x, matrix, dim, 3), expected)


@pytest.mark.parametrize("kind", [Along, Rotation])
@pytest.mark.parametrize("dim", [0, 1, -3])
def test_a_dim_is_counted_from_the_last(kind: type[Along | Rotation], dim: int) -> None:
    with pytest.raises(ValueError, match=f"counted from the last, -2 to -1; got {dim}"):
        kind(torch.eye(4), dim)


@pytest.mark.parametrize("known", [torch.float32, torch.float64])
def test_a_map_in_one_precision_serves_weights_in_another(known: torch.dtype) -> None:
    norm = InCoordinates(Spectral(), Along(invertible(4, 0).to(known), -1))
    exact = InCoordinates(Spectral(), Along(invertible(4, 0), -1))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = draw(*SHAPE, seed=1).to(dtype)
        rounding = max(1e-6, torch.finfo(dtype).eps)
        assert norm.duality_map(x).dtype == norm.dual(x).dtype == dtype
        assert_close(norm.dual(x).double(), exact.dual(x.double()), rtol=2 * rounding, atol=0)
