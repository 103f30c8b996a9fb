"""Certificates: every derived direction on random weights and gradients, proved or not."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.table import Table

from modula.duality import Certificate, NoRule, Program, Setting, certify, derive
from modula.manifolds import Euclidean, Manifold, Oblique, Sphere, Stiefel
from modula.norms import L2, RMS, Columns, Frobenius, Max, Norm, Nuclear, RMSToRMS, Rows, Spectral

NORMS: tuple[Norm, ...] = (
    RMSToRMS(),
    Spectral(),
    Nuclear(),
    Frobenius(),
    Max(ndim=2),
    Columns(RMS()),
    Rows(L2()),
)
MANIFOLDS: tuple[Manifold, ...] = (
    Euclidean(),
    Sphere(ndim=2),
    Oblique("rows"),
    Oblique("columns"),
    Stiefel(),
)
EXACT = 1e-5
SHAPES = ((24, 24), (48, 16), (16, 48))


@dataclass(frozen=True)
class Verified:
    """One row of the table: what was declared and what is proved of the derived direction."""

    norm: Norm
    manifold: Manifold
    shape: tuple[int, int]
    certificate: Certificate


def verify(seed: int = 0) -> Iterator[Verified]:
    """Certify every pair that has a rule, on every shape its manifold has points of."""
    for norm in NORMS:
        for manifold in MANIFOLDS:
            for shape in SHAPES:
                certificate = certificate_of(norm, manifold, shape, seed)
                if certificate is not None:
                    yield Verified(norm, manifold, shape, certificate)


def certificate_of(
    norm: Norm, manifold: Manifold, shape: tuple[int, int], seed: int
) -> Certificate | None:
    """Derive, run and certify one direction in float64; None where nothing can be derived."""
    try:
        derived = derive(Setting(norm, manifold), shape)
    except (NoRule, ValueError):
        return None
    generator = torch.Generator().manual_seed(seed)
    unit, gradient = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    weight = manifold.project(unit)
    tensors = Program(derived.lines, ()).run(weight=weight, query=gradient)
    return certify(norm, manifold, weight, gradient, derived.scale * tensors[derived.direction])


def grade(certificate: Certificate, tolerance: float) -> str:
    """How good a direction is: "exact", "close" (to the tolerance) or "FAIL"."""
    if certificate.passes(min(EXACT, tolerance)):
        return "exact"
    return "close" if certificate.passes(tolerance) else "FAIL"


def verify_table(rows: list[Verified], tolerance: float) -> Table:
    """The certificates for the screen."""
    table = Table(
        *("norm", "manifold", "shape", "norm of D", "off tangent", "gap", ""),
        title="Is every derived direction feasible and the steepest?",
        caption=(
            "gap: at most this share of the steepest descent is missing; "
            f"exact: all to {EXACT:g}; close: all to {tolerance:g}, as from an iteration cut short"
        ),
    )
    for column in table.columns[3:6]:
        column.justify = "right"
    for row in rows:
        found = row.certificate
        mark = grade(found, tolerance)
        table.add_row(
            str(row.norm),
            str(row.manifold),
            "x".join(map(str, row.shape)),
            f"{found.norm:.8f}",
            f"{found.tangency:.1e}",
            f"{found.gap:.1e}",
            mark,
            style={"exact": "green", "close": "yellow", "FAIL": "bold red"}[mark],
        )
    return table
