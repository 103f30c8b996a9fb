"""A layer's weight as a matrix (outputs, inputs): what is cut, and what a factor belongs to."""

import pytest
import torch

from modula.duality.metrics.layer_layout import layer_layout, matrix_shape, matrix_view


def test_a_side_without_a_factor_is_not_cut() -> None:
    layout = layer_layout((8, 2), ("inputs",), square=True, max_dim=64)
    assert layout.block == (8, 2) and layout.blocks == () and layout.view is None
    (factor,) = layout.factors
    assert (factor.name, factor.dim, factor.shape) == ("inputs", -1, (2, 2))


def test_a_side_that_is_cut_has_a_factor_for_each_block_and_the_other_shares_one() -> None:
    layout = layer_layout((8, 2), ("outputs", "inputs"), square=True)
    assert layout.blocks == (4, 1) and layout.block == (2, 2)
    assert [each.shape for each in layout.factors] == [(4, 1, 2, 2), (1, 1, 2, 2)]


def test_taps_of_a_convolution_stay_together() -> None:
    layout = layer_layout((4, 6, 3, 3), ("outputs", "inputs"), max_dim=20)
    assert layout.block == (4, 18) and layout.blocks == (1, 3)


@pytest.mark.parametrize(
    ("shape", "inputs_first"), [((3, 5), False), ((3, 5), True), ((3, 5, 2, 2), False)], ids=str
)
def test_a_view_has_the_shape_that_is_said(shape: tuple[int, ...], inputs_first: bool) -> None:
    view = matrix_view(shape, inputs_first)
    seen = torch.empty(shape) if view is None else view.to_blocks(torch.empty(shape))
    assert tuple(seen.shape) == matrix_shape(shape, inputs_first)


def test_a_weight_without_two_sides_is_refused() -> None:
    for shape, inputs_first in (((3,), False), ((2, 3, 4), True)):
        with pytest.raises(ValueError, match=r"declare a metric of gradients instead"):
            matrix_shape(shape, inputs_first)
