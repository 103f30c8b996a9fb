"""Grades of certificates, and the table that shows them."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from modula import verify
from modula.duality import Certificate
from modula.manifolds import Sphere, Stiefel
from modula.norms import Frobenius, Max


def test_a_gap_far_below_zero_is_no_proof() -> None:
    (row, *_) = verify.verify_pair(Frobenius(), Sphere(ndim=2), (3, 2), dtypes=(torch.float64,))
    graded = [
        verify.grade(replace(row, certificate=Certificate(1.0, 0.0, gap)), 0.1)
        for gap in (-1e-13, -2e-4, 0.01, 0.2, -0.2, float("nan"))
    ]
    assert graded == ["exact", "close", "close", "FAIL", "FAIL", "FAIL"]


@pytest.fixture(scope="module")
def rows() -> list[verify.Verified]:
    """Three of them, of which an iteration cut short leaves the second a gap of 2e-3."""
    kinds, dtypes = ("Gaussian", "low rank", "zero"), (torch.float64,)
    return [*verify.verify_pair(Max(2), Stiefel(), (5, 4), kinds, dtypes)]


@pytest.mark.parametrize("width", [50, 80, 100, 130, verify.WIDE])
@pytest.mark.parametrize(("tolerance", "grade"), [(0.1, "close"), (1e-4, "FAIL: low rank")])
def test_a_table_fits_and_keeps_its_grades(
    rows: list[verify.Verified], width: int, tolerance: float, grade: str
) -> None:
    """What fails is named, whichever columns are left out."""
    console = Console(width=width)
    with console.capture() as seen:
        console.print(verify.verify_table(rows, tolerance, width))
    assert max(map(len, seen.get().splitlines())) <= width
    assert grade in seen.get()
    assert "…" not in seen.get()
