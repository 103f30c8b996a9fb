"""Certificates over the catalogue: how far is each derived direction from the steepest?

python benchmarks/certified_gaps.py

Every norm on every manifold, at 64 x 32 and at the odd 33 x 18 (SPD: 32 x 32 and 18 x 18), for a
Gaussian weight and gradient in float64.  The times are those of the process alone.  Writes
benchmarks/results/certified_gaps.md.
"""

import platform
import time
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from modula.duality import Setting, certify, derive
from modula.duality.setting.derive import rule_name
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
    RMS,
    Columns,
    Frobenius,
    FromDual,
    Max,
    Norm,
    Nuclear,
    RMSToRMS,
    Rows,
    Spectral,
)

RESULTS = Path(__file__).parent / "results" / "certified_gaps.md"
SHAPES = ((64, 32), (33, 18))


def nuclear_and_more(g: Tensor) -> Tensor:
    """||g||_nuclear + ||g||_F: the dual of a norm without a name."""
    return torch.linalg.matrix_norm(g, ord="nuc") + torch.linalg.vector_norm(g)


def of_length_one(w: Tensor) -> Tensor:
    """||w||_F^2 - 1"""
    return (w * w).sum() - 1


NORMS: tuple[Norm, ...] = (
    L1(2),
    Max(2),
    Frobenius(),
    Spectral(),
    2 * RMSToRMS(),
    Nuclear(),
    Rows(RMS()),
    Columns(Max()),
    RMSToRMS().on("o (h i) -> h o i", h=2),
    FromDual(nuclear_and_more),
)
MANIFOLDS: tuple[Manifold, ...] = (
    Euclidean(),
    Sphere(ndim=2),
    Oblique("rows"),
    Oblique("columns"),
    Stiefel(),
    Transposed(Oblique("rows")),
    UnitConditionNumber(),
    SpectralSphere(2.0),
    SPD(floor=0.1),
    Isospectral(),
    SpectralBall(5.0),
    SpectralBand(3.0, 8.0),
    NormBall(Max(2), 0.5),
    Implicit(of_length_one),
)


def certified(norm: Norm, manifold: Manifold, shape: tuple[int, int]) -> list[str]:
    """The cells of one pair at one shape."""
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    weight = manifold.retract(weight, torch.zeros_like(weight))
    derived = derive(Setting(norm, manifold), shape)
    start = time.process_time()
    direction = derived.first_direction(weight, gradient)
    solved = time.process_time()
    found = certify(norm, manifold, weight, gradient, direction)
    proved = time.process_time()
    numbers = f"{found.norm:.4f}", f"{found.tangency:.0e}", f"{found.gap:.1e}"
    return [*numbers, f"{1e3 * (solved - start):.0f}", f"{1e3 * (proved - solved):.0f}"]


def shape_for(manifold: Manifold, shape: tuple[int, int]) -> tuple[int, int]:
    """SPD has square points only."""
    return (shape[1], shape[1]) if isinstance(manifold, SPD) else shape


def main() -> None:
    """Print each pair as it is certified, and keep the table."""
    cells = ("norm", "off tangent", "gap", "ms", "proof ms")
    head = ["norm", "manifold", "rule"]
    head += [f"{cell}, {m} x {n}" for m, n in SHAPES for cell in cells]
    lines = [head, ["---"] * len(head)]
    console = Console(width=170)
    for norm in NORMS:
        for manifold in MANIFOLDS:
            named = [str(norm), str(manifold), rule_name(Setting(norm, manifold), SHAPES[0])]
            found = (certified(norm, manifold, shape_for(manifold, shape)) for shape in SHAPES)
            lines.append([*named, *(cell for each in found for cell in each)])
            console.print("  ".join(lines[-1]), highlight=False, markup=False)
    where = f"{date.today()}, torch {torch.__version__}, {platform.machine()} CPU, one thread"
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    RESULTS.write_text(f"{(__doc__ or '').strip()}\n\n{where}\n\n{table}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
