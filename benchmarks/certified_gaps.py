"""Certificates over the catalogue: how far is each derived direction from the steepest?

python benchmarks/certified_gaps.py

The norms and manifolds of `modula verify`, at 64 x 32 and at the odd 33 x 18 (SPD: 32 x 32 and
18 x 18; Transposed: 32 x 64 and 18 x 33), for a Gaussian weight and gradient in float64.  The times
are those of the process alone.  Writes benchmarks/results/certified_gaps.md.
"""

import platform
import time
from datetime import date
from pathlib import Path

import torch
from rich.console import Console

from modula.duality import Setting, certify, derive
from modula.duality.setting.derive import rule_name
from modula.manifolds import SPD, Manifold, Transposed
from modula.norms import Norm
from modula.verify import MANIFOLDS, NORMS

RESULTS = Path(__file__).parent / "results" / "certified_gaps.md"
SHAPES = ((64, 32), (33, 18))


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
    """SPD has square points only, Transposed wide ones."""
    if isinstance(manifold, Transposed):
        return shape[1], shape[0]
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
            named = [
                str(norm),
                str(manifold),
                rule_name(Setting(norm, manifold), shape_for(manifold, SHAPES[0])),
            ]
            found = (certified(norm, manifold, shape_for(manifold, shape)) for shape in SHAPES)
            lines.append([*named, *(cell for each in found for cell in each)])
            console.print("  ".join(lines[-1]), highlight=False, markup=False)
    where = f"{date.today()}, torch {torch.__version__}, {platform.machine()} CPU, one thread"
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    RESULTS.write_text(f"{(__doc__ or '').strip()}\n\n{where}\n\n{table}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
