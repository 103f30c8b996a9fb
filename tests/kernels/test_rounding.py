"""Random rounding: neighbours only, right on average, harmless to what is no number."""

import torch
from torch.testing import assert_close

from modula.kernels.rounding import to_bfloat16_at_random


def test_both_neighbours_are_drawn_as_often_as_they_are_near() -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = 1.0, 1.0 + 2**-7
    for share in (0.125, 0.5, 0.9):
        for sign in (1.0, -1.0):
            x = torch.full((40_000,), sign * (low + share * (high - low)))
            found = to_bfloat16_at_random(x, generator)
            assert found.dtype == torch.bfloat16
            assert {*found.abs().tolist()} == {low, high}
            assert_close(
                (found.abs() == high).float().mean(), torch.tensor(share), atol=0.01, rtol=0
            )


def test_what_bfloat16_holds_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(1000, generator=generator) * 1e-20).bfloat16()
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-40]).bfloat16()
    for exact in (x, special):
        for wide in (exact.float(), exact.double()):
            assert torch.equal(to_bfloat16_at_random(wide, generator), exact)
    assert to_bfloat16_at_random(torch.tensor([float("nan")]), generator).isnan().all()


def test_transposed_input_keeps_its_places() -> None:
    generator = torch.Generator()
    x = torch.arange(6.0).reshape(2, 3).mT
    assert torch.equal(to_bfloat16_at_random(x, generator), x.bfloat16())
