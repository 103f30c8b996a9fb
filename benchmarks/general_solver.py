"""Warm starts of the general solver: the certified gap after so many rounds, cold and warm.

python benchmarks/general_solver.py

A momentum (beta 0.95) of a constant gradient and noise is followed for 40 steps on the manifold.
Slow: noise a tenth of the gradient, steps of 0.002.  Fast: noise as large as it, steps of 0.02.
Cold runs start from the duality map in every step, warm ones from the dual that the step before
left, where that is proved to be much nearer.  Printed is the median gap of four steps, 24 to 39.
Writes its table to benchmarks/results/general_solver.md.
"""

import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from modula.duality import certify
from modula.duality.rules.solvers.general import solve
from modula.manifolds import Manifold, Oblique, Stiefel, UnitConditionNumber
from modula.norms import Max, Norm, Nuclear, RMSToRMS, Rows
from modula.norms.vector import RMS

RESULTS = Path(__file__).parent / "results" / "general_solver.md"
SHAPE, STEPS, LOOKS = (32, 16), 40, (24, 29, 34, 39)
ROUNDS = (5, 10, 20, 50)
SPEEDS = {"slow": (0.1, 0.002), "fast": (1.0, 0.02)}  # noise, length of a step
PAIRS: tuple[tuple[Norm, Manifold], ...] = (
    (Max(2), Stiefel()),
    (Max(2), Oblique("columns")),
    (Rows(RMS()), Stiefel()),
    (RMSToRMS(), Oblique()),
    (RMSToRMS(), UnitConditionNumber()),
    (Nuclear(), Oblique()),
)


def gaps(
    norm: Norm, manifold: Manifold, noise: float, length: float, rounds: int, warm: bool
) -> Iterator[float]:
    """The certified gaps of one run."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(SHAPE, generator=generator, dtype=torch.float64)

    signal = draw()
    weight, momentum, dual = manifold.retract(draw(), 0 * signal), signal, None
    for step in range(STEPS):
        momentum = 0.95 * momentum + 0.05 * (signal + noise * draw())
        tangent = manifold.to_tangent(weight, momentum)
        direction, dual = solve(norm, manifold, weight, tangent, rounds, dual if warm else None)
        if step in LOOKS:
            yield certify(norm, manifold, weight, momentum, direction).gap
        weight = manifold.retract(weight, -length * direction)


def main() -> None:
    """Print the table and keep it."""
    columns = [f"{mode} {rounds}" for rounds in ROUNDS for mode in ("cold", "warm")]
    table = Table("norm", "manifold", "momentum", *columns)
    rows = []
    for norm, manifold in PAIRS:
        for speed, (noise, length) in SPEEDS.items():
            found = [
                median(gaps(norm, manifold, noise, length, rounds, warm))
                for rounds in ROUNDS
                for warm in (False, True)
            ]
            rows.append([str(norm), str(manifold), speed, *(f"{gap:.1e}" for gap in found)])
            table.add_row(*rows[-1])
    Console(width=160).print(table)
    head = ["norm", "manifold", "momentum", *columns]
    lines = [head, ["---"] * len(head), *rows]
    where = f"{date.today()}, torch {torch.__version__}, {platform.machine()} CPU, float64, "
    RESULTS.write_text(
        f"{(__doc__ or '').strip()}\n\n{where}{SHAPE[0]} x {SHAPE[1]}\n\n"
        + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
