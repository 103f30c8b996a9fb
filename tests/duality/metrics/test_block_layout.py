"""How a weight is cut into blocks, and which factors a Kronecker metric has of each."""

import pytest
import torch

from modula.duality.metrics.block_layout import block_layout
from modula.duality.metrics.coordinates import coordinates
from modula.norms import KL, Dense, Flat, Kronecker, Memory


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((768, 768), "dense 768 x dense 768"),
        ((3072, 768), "4 blocks of dense 768 x dense 768"),
        ((768, 2304), "3 blocks of dense 768 x dense 768"),
        ((4096, 4096), "4 blocks of dense 2048 x dense 2048"),
        ((50257, 768), "diagonal 50257 x dense 768"),
        ((8, 768), "dense 8 x diagonal 768"),
        ((64, 64, 3, 3), "9 blocks of dense 64 x dense 64"),
        ((1, 24), "dense 24"),
    ],
    ids=str,
)
def test_a_metric_fits_itself_to_a_shape(shape: tuple[int, ...], expected: str) -> None:
    """Square blocks; a diagonal where a dense factor is too wide or cannot be estimated."""
    metric = Kronecker(memory=Memory(0.95))
    assert str(block_layout(metric, shape)) == expected
    found = coordinates(metric, shape, True)
    if found.view is not None:
        x = torch.empty(shape, device="meta")
        assert found.view.from_blocks(found.view.to_blocks(x), shape).shape == shape


def test_modes_for_another_number_of_dims_are_refused() -> None:
    with pytest.raises(ValueError, match="2 modes for a weight of 3 dims"):
        block_layout(Kronecker((Dense(), Flat()), fit=KL()), (3, 4, 5))
