"""Certificates: every derived direction on random weights and gradients, proved or not."""

import ast
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

import modula.manifolds
import modula.norms
from modula.duality import Certificate, NoRule, Program, Setting, certify, derive
from modula.errors import UserError
from modula.manifolds import (
    Euclidean,
    Isospectral,
    Manifold,
    Oblique,
    SpectralBall,
    Sphere,
    Stiefel,
)
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
    SpectralBall(5.0),  # of which a Gaussian matrix is partly inside, partly outside
    Isospectral(),
)
EXACT = 1e-5
SHAPES = ((24, 24), (48, 16), (16, 48))
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
# A direction in few digits is off by their rounding, entry by entry.
ROUNDING = {torch.float64: 0.0, torch.float32: 1e-4, torch.bfloat16: 0.03}


def gaussian(x: Tensor) -> Tensor:
    """The draw itself."""
    return x


def low_rank(x: Tensor) -> Tensor:
    """The best approximation of rank one."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return s[0] * u[:, :1] @ vh[:1]


def ill_conditioned(x: Tensor) -> Tensor:
    """The same singular vectors, singular values from 1 to 1e-6."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return u * torch.logspace(0, -6, len(s), dtype=x.dtype) @ vh


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "Gaussian": gaussian,
    "low rank": low_rank,
    "ill-conditioned": ill_conditioned,
    "tiny": lambda x: 1e-30 * x,
    "huge": lambda x: 1e30 * x,
    "zero": lambda x: 0 * x,
}


@dataclass(frozen=True)
class Verified:
    """One row of the table: what was declared and what is proved of the derived direction."""

    norm: Norm
    manifold: Manifold
    shape: tuple[int, int]
    certificate: Certificate
    gradient: str = "Gaussian"
    dtype: torch.dtype = torch.float64


def verify(seed: int = 0, kinds: tuple[str, ...] = ("Gaussian",)) -> Iterator[Verified]:
    """Certify every pair that has a rule, on every shape its manifold has points of."""
    for norm in NORMS:
        for manifold in MANIFOLDS:
            for shape in SHAPES:
                try:
                    yield from verify_pair(norm, manifold, shape, seed, kinds, DTYPES[:1])
                except (NoRule, ValueError):
                    continue


def verify_pair(
    norm: Norm,
    manifold: Manifold,
    shape: tuple[int, int],
    seed: int = 0,
    kinds: tuple[str, ...] = tuple(GRADIENTS),
    dtypes: tuple[torch.dtype, ...] = DTYPES,
) -> Iterator[Verified]:
    """Derive, run and certify one pair on every kind of gradient in every precision.

    Raises NoRule or ValueError where nothing can be derived.
    """
    derived = derive(Setting(norm, manifold), shape)
    program = Program(derived.lines, ())
    for dtype in dtypes:
        for kind in kinds:
            generator = torch.Generator().manual_seed(seed)
            draws = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
            weight = manifold.project(draws[0]).to(dtype)
            gradient = GRADIENTS[kind](draws[1]).to(dtype)
            tensors = program.run(weight=weight, query=gradient)
            direction = derived.scale * tensors[derived.direction]
            found = certify(norm, manifold, weight, gradient, direction)
            yield Verified(norm, manifold, shape, found, kind, dtype)


def parse(kind: type[Any], text: str) -> Any:
    """The norm or manifold that an expression makes: "2 * RMSToRMS()", or "FILE.py:EXPRESSION".

    The names of modula.norms, modula.manifolds and torch are known, after ":" those of the file.
    Raises UserError if it makes anything else.
    """
    names: dict[str, Any] = {**vars(modula.norms), **vars(modula.manifolds), "torch": torch}
    file, colon, expression = text.rpartition(".py:")
    try:
        if colon:
            names |= runpy.run_path(str(Path(f"{file}.py")))
        made = eval(compile(ast.parse(expression, mode="eval"), "<command line>", "eval"), names)
    except Exception as error:
        raise UserError(f"cannot make a {kind.__name__.lower()} of {text!r}: {error}") from error
    if not isinstance(made, kind):
        example = "RMSToRMS()" if kind is Norm else "Stiefel()"
        raise UserError(f"{text!r} is no {kind.__name__.lower()}; write for example {example!r}")
    return made


def parse_shape(text: str) -> tuple[int, int]:
    """(64, 32) of "64x32"."""
    extents = text.lower().split("x")
    if len(extents) != 2 or not all(extent.isdigit() and int(extent) for extent in extents):
        raise UserError(f"a shape is written like 64x32, not {text!r}")
    return int(extents[0]), int(extents[1])


def grade(row: Verified, tolerance: float) -> str:
    """How good a direction is: "exact", "close" (to the tolerance) or "FAIL"."""
    rounding = ROUNDING[row.dtype]
    if row.certificate.passes(min(EXACT, tolerance) + rounding):
        return "exact"
    return "close" if row.certificate.passes(tolerance + rounding) else "FAIL"


def verify_table(rows: list[Verified], tolerance: float) -> Table:
    """The certificates for the screen."""
    table = Table(
        *("norm", "manifold", "shape", "gradient", "dtype", "norm of D", "off tangent", "gap", ""),
        title="Is every derived direction feasible and the steepest?",
        caption=(
            "gap: at most this share of the steepest descent is missing; exact: all to "
            f"{EXACT:g} and the rounding of the dtype; close: all to {tolerance:g}, as from an "
            "iteration cut short"
        ),
    )
    for column in table.columns[5:8]:
        column.justify = "right"
    for row in rows:
        found = row.certificate
        mark = grade(row, tolerance)
        table.add_row(
            str(row.norm),
            str(row.manifold),
            "x".join(map(str, row.shape)),
            row.gradient,
            str(row.dtype).removeprefix("torch."),
            f"{found.norm:.8f}",
            f"{found.tangency:.1e}",
            f"{found.gap:.1e}",
            mark,
            style={"exact": "green", "close": "yellow", "FAIL": "bold red"}[mark],
        )
    return table
