"""How far weights stray from their manifolds in 10,000 steps.

python benchmarks/drift.py [--steps 10000] [--recipes hypersphere,oblique]

Every step follows a fresh normal gradient with momentum, at lr 0.02.  The residual is the
manifold's own, relative to its size: for orthonormal columns || W^T W / r^2 - I ||_F, for POET the
distance of the singular values from those at first.  Its floor
is what rounding alone leaves: the worst residual of as many random points, each exact in float64
and rounded to the dtype of the weight.  No step can do better for long; a worst much above the
floor would be drift.
Writes benchmarks/results/drift.md, of which it replaces the tables of the recipes that were run.
"""

import argparse
import io
import logging
import time
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import modula
from modula import manifolds, recipes

RESULTS = Path(__file__).parent / "results" / "drift.md"
RECIPES = ("hypersphere", "oblique", "manifold_muon", "unit_condition", "spectral_sphere", "poet")
SHAPES = ((12, 8), (8, 8), (6, 16))
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
EVERY = 50  # steps between two looks at the residual


def residuals(
    recipe: str, shape: tuple[int, int], dtype: torch.dtype, steps: int
) -> tuple[list[float], float]:
    """The residual of one weight, every so many steps, and its floor."""
    torch.manual_seed(0)
    model = nn.Linear(shape[1], shape[0], bias=False, dtype=dtype)
    optimizer = getattr(recipes, recipe)(model, lr=0.02)
    manifold = eval(optimizer.plan["weight"].manifold, vars(manifolds))  # it prints as the call
    if recipe == "poet":  # whose weight keeps the singular values that it had
        spectrum = torch.linalg.svdvals(model.weight.detach().double())
        manifold = manifolds.Isospectral(tuple(spectrum.tolist()))
    found = []
    for step in range(1, steps + 1):
        model.weight.grad = torch.randn(shape).to(dtype)
        optimizer.step()
        if step % EVERY == 0:
            found.append(float(manifold.residual(model.weight.detach().double())))
    points = (manifold.sample(shape, dtype=torch.float64).to(dtype).double() for _ in found)
    return found, max(float(manifold.residual(point)) for point in points)


def drift_table(name: str, steps: int) -> Table:
    """One recipe in every dtype and shape."""
    table = Table(title=f"residual in {steps} steps")
    for column in ("dtype", "shape", "last", "worst", "floor", "allowed", "ms a step"):
        table.add_column(column, justify="left" if column == "dtype" else "right")
    for dtype, allowed in ALLOWED.items():
        for shape in SHAPES:
            start = time.perf_counter()
            found, floor = residuals(name, shape, dtype, steps)
            each = 1e3 * (time.perf_counter() - start) / steps
            kind = str(dtype).removeprefix("torch.")
            numbers = (f"{number:.1e}" for number in (found[-1], max(found), floor))
            cells = (*numbers, f"{allowed:.0e}", f"{each:.2f}")
            table.add_row(kind, f"{shape[0]}x{shape[1]}", *cells)
            print(name, kind, shape, *cells, flush=True)
    return table


def printed(table: Table) -> str:
    text = io.StringIO()
    console = Console(file=text, width=100)
    console.print(f"{date.today()}; torch {torch.__version__}; modula {modula.__version__}")
    console.print(table)
    return text.getvalue()


def keep(name: str, text: str) -> None:
    """Replace one recipe's part of the results."""
    parts = RESULTS.read_text().split("\n## ")[1:] if RESULTS.exists() else []
    kept = {part.split("\n", 1)[0]: part for part in parts}
    kept[name] = f"{name}\n\n```text\n{text}```\n"
    intro = "Printed by `python benchmarks/drift.py`, which says what is measured."
    parts = [kept[each] for each in RECIPES if each in kept]
    RESULTS.write_text("\n## ".join((f"# Drift\n\n{intro}\n", *parts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    arguments = parser.parse_args()
    logging.getLogger("modula").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for name in arguments.recipes.split(","):
        text = printed(drift_table(name, arguments.steps))
        print(text)
        keep(name, text)


if __name__ == "__main__":
    main()
