"""Certificates of derived directions on random weights and gradients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from modula.duality import Certificate, NoRule, Setting, certify, derive
from modula.duality.plan_table import fitting_table
from modula.kernels.op import Cost
from modula.manifolds import (
    SPD,
    Euclidean,
    Implicit,
    Isospectral,
    Manifold,
    NormBall,
    Oblique,
    SpectralBall,
    SpectralBand,
    SpectralSphere,
    Sphere,
    Stiefel,
    Transposed,
    UnitConditionNumber,
)
from modula.norms import (
    L1,
    L2,
    RMS,
    Columns,
    Frobenius,
    FromDual,
    KyFan,
    KyFanDual,
    Max,
    Norm,
    Nuclear,
    RMSToRMS,
    Rows,
    Schatten,
    Spectral,
)


def spectral_and_length(g: Tensor) -> Tensor:
    """Spectral norm plus Frobenius length: an example of a user's dual norm."""
    return torch.linalg.svdvals(g).sum() + torch.linalg.vector_norm(g)


def unit_rows(w: Tensor) -> Tensor:
    """Rows of unit length: an example of a user's constraint."""
    return w.square().sum(-1) - 1


NORMS: tuple[Norm, ...] = (
    RMSToRMS(),
    Spectral(),
    Nuclear(),
    Schatten(3.0),
    KyFan(2),
    KyFanDual(2),
    Frobenius(),
    L1(ndim=2),
    Max(ndim=2),
    Columns(RMS()),
    Rows(L2()),
    Max().on("o i -> o i"),
    FromDual(spectral_and_length),
)
MANIFOLDS: tuple[Manifold, ...] = (
    Euclidean(),
    Sphere(ndim=2),
    Oblique("rows"),
    Oblique("columns"),
    Stiefel(),
    Transposed(Stiefel()),
    UnitConditionNumber(),
    SpectralSphere(),
    SPD(floor=0.1),
    SpectralBall(5.0),  # of which a Gaussian matrix is partly inside, partly outside
    SpectralBand(3.0, 8.0),
    NormBall(Max(ndim=2), 0.5),
    Isospectral(),
    Implicit(unit_rows),
)
EXACT = 1e-5
SHAPES = ((16, 16), (21, 8), (8, 21))
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
# A direction in few digits is off by their rounding, entry by entry.
ROUNDING = {torch.float64: 0.0, torch.float32: 1e-4, torch.bfloat16: 0.03}


def gaussian(x: Tensor) -> Tensor:
    """The gradient as drawn."""
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
    """One certified direction: what was declared, the certificate, and the cost of the program."""

    norm: Norm
    manifold: Manifold
    shape: tuple[int, int]
    dtype: torch.dtype
    gradient: str
    certificate: Certificate
    cost: Cost


def verify(
    norms: Sequence[Norm] = NORMS,
    manifolds: Sequence[Manifold] = MANIFOLDS,
    shapes: Sequence[tuple[int, int]] | None = None,
    kinds: Sequence[str] = ("Gaussian",),
    dtypes: Sequence[torch.dtype] = DTYPES[:1],
    seed: int = 0,
) -> Iterator[Verified]:
    """Certify every pair on every shape that its manifold has points of; SHAPES if None."""
    for norm, manifold, shape in product(norms, manifolds, SHAPES if shapes is None else shapes):
        try:
            derive(Setting(norm, manifold), shape)
        except (NoRule, ValueError):
            continue
        yield from verify_pair(norm, manifold, shape, kinds, dtypes, seed)


def verify_pair(
    norm: Norm,
    manifold: Manifold,
    shape: tuple[int, int],
    kinds: Sequence[str] = tuple(GRADIENTS),
    dtypes: Sequence[torch.dtype] = DTYPES,
    seed: int = 0,
) -> Iterator[Verified]:
    """Derive, run and certify one pair on every kind of gradient in every precision.

    Raises NoRule or ValueError where nothing can be derived.
    """
    derived = derive(Setting(norm, manifold), shape)
    program = derived.as_program()
    for dtype, kind in product(dtypes, kinds):
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        # Not `project`: a spectral sphere's largest singular value is to stay simple.
        weight = manifold.retract(draws[0], torch.zeros_like(draws[0])).to(dtype)
        gradient = GRADIENTS[kind](draws[1]).to(dtype)
        direction = derived.first_direction(weight, gradient)
        close = max(EXACT, ROUNDING[dtype]) / 10
        found = certify(norm, manifold, weight, gradient, direction, close=close)
        yield Verified(
            norm, manifold, shape, dtype, kind, found, program.cost(shape, dtype.itemsize)
        )


def grade(row: Verified, tolerance: float) -> str:
    """How good a direction is: "exact", "close" (to the tolerance) or "FAIL"."""
    rounding = ROUNDING[row.dtype]
    if row.certificate.passes(min(EXACT, tolerance) + rounding):
        return "exact"
    return "close" if row.certificate.passes(tolerance + rounding) else "FAIL"


WIDE = 170  # columns where no terminal limits them
STYLES = {"exact": "green", "close": "yellow", "FAIL": "bold red"}  # the worst last


def verify_table(rows: Sequence[Verified], tolerance: float, width: int = WIDE) -> Table:
    """Table of certificates: a row a pair, shape and dtype, a gap a kind of gradient.

    A narrow one, of less than WIDE columns, leaves some out and says which; the grades stay.
    """
    kinds = list(dict.fromkeys(row.gradient for row in rows))
    gaps = [f"gap, {kind}" if len(kinds) == 1 else kind for kind in kinds]
    lines: dict[tuple[str, ...], list[Verified]] = {}
    for row in rows:
        shape, dtype = "x".join(map(str, row.shape)), str(row.dtype).removeprefix("torch.")
        lines.setdefault((str(row.norm), str(row.manifold), shape, dtype), []).append(row)
    headings = "norm", "manifold", "shape", "dtype", "grade", "norm of D", "off tangent"
    costs = "MFLOPs", "proof ms"
    cells = [(*declared, *_proved(line, tolerance)) for declared, line in lines.items()]
    columns = dict(zip((*headings, *gaps, *costs), zip(*cells, strict=True), strict=True))
    return fitting_table(
        columns,
        width,
        ("dtype", "shape", *gaps, *headings[5:], *reversed(costs)),
        title="Is every derived direction feasible and the steepest?",
        caption=(
            "for each gradient the gap: at most this share of the steepest descent is missing\n"
            f"exact: all to {EXACT:g} and the rounding of the dtype; close: all to {tolerance:g}, "
            "as from an iteration cut short\n"
            "MFLOPs: of the direction, as counted; ms: of one proof, measured"
        ),
    )


def contradictions(rows: Sequence[Verified]) -> list[str]:
    """The pairs whose norm and dual contradict each other, each in one sentence."""
    found = dict[tuple[str, str], str]()
    for row in rows:
        if broken := row.certificate.contradiction:
            found.setdefault((str(row.norm), str(row.manifold)), broken)
    return [f"{norm} on {manifold}: {broken}" for (norm, manifold), broken in found.items()]


def _proved(line: Sequence[Verified], tolerance: float) -> Iterator[str | Text]:
    """The cells of one line: the worst grade, norm and tangency, each gap, the cost."""
    found = [row.certificate for row in line]
    grades = [grade(row, tolerance) for row in line]
    worst = max(grades, key=list(STYLES).index)
    failed = [row.gradient for row, mark in zip(line, grades, strict=True) if mark == "FAIL"]
    yield Text(f"FAIL: {', '.join(failed)}" if failed else worst, STYLES[worst])
    yield f"{max(each.norm for each in found):.6f}"
    yield f"{max(each.tangency for each in found):.1e}"
    for each, mark in zip(found, grades, strict=True):
        yield Text(f"{each.gap:.1e}", STYLES[mark])
    yield f"{line[0].cost.flops / 1e6:.3g}"
    yield f"{1e3 * sum(each.seconds for each in found) / len(found):.3g}"
