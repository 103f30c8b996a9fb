"""Bias-corrected recipes against the plain ones: a byte-level GPT on Python's standard library.

python benchmarks/bias_corrected.py                    # about 20 minutes of one core
python benchmarks/bias_corrected.py --plain adamw      # one pair, nothing written

Each recipe at the best learning rate of its own factor-2 grid, found with seed 0; then that rate
again from other seeds.  Both of a pair see the same batches of 32 windows, in 8 microbatches.
Writes benchmarks/results/bias_corrected.md, unless --plain is given.
"""

import argparse
import platform
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean

import torch

from modula.errors import Diverged
from modula.training.config import Config
from modula.training.data import load_text
from modula.training.run import Run

RESULTS = Path(__file__).parent / "results" / "bias_corrected.md"
RATES = {
    "adamw": (0.004, 0.008, 0.016, 0.032, 0.064),
    "sophia": (0.001, 0.002, 0.004, 0.008),
    "shampoo": (0.008, 0.016, 0.032, 0.064),
}
OPTIONS = {"adamw": "betas=(0.9,0.95)"}
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Found:
    """The last validation loss of a run, in nats a byte."""

    optimizer: str
    lr: float
    seed: int
    loss: float


def train(optimizer: str, lr: float, seed: int, steps: int) -> Found:
    """One run, in a folder that is thrown away."""
    options = OPTIONS.get(optimizer.removeprefix("bias_corrected_"), "")
    config = Config(
        optimizer=optimizer, lr=lr, options=options, seed=seed, steps=steps,
        width=64, context=64, batch=32, microbatches=8, device="cpu", threads=1,
        validate_every=steps, checkpoint_every=steps, norms_every=steps,
    )  # fmt: skip
    loss = float("inf")
    with tempfile.TemporaryDirectory() as folder, suppress(Diverged):
        *_, last = Run(config, load_text(), Path(folder))
        loss = last.val_loss or loss
    found = Found(optimizer, lr, seed, loss)
    print(found, flush=True)
    return found


def runs(plain: str, steps: int) -> Iterator[Found]:
    """The grids of a pair with seed 0, then each one's best from the other seeds."""
    for optimizer in (plain, f"bias_corrected_{plain}"):
        grid = [train(optimizer, lr, 0, steps) for lr in RATES[plain]]
        yield from grid
        best = min(grid, key=lambda found: found.loss)
        yield from (train(optimizer, best.lr, seed, steps) for seed in SEEDS)


def rows(found: list[Found]) -> Iterator[str]:
    """A line for each optimizer: its grid, the mean over the other seeds at its best, and them."""
    yield "| optimizer | grid: lr, loss | best lr, other seeds | their mean |"
    yield "| --- | --- | --- | --- |"
    for optimizer in dict.fromkeys(each.optimizer for each in found):
        mine = [each for each in found if each.optimizer == optimizer]
        grid = ", ".join(f"{each.lr:g} {each.loss:.4f}" for each in mine if each.seed == 0)
        seeds = [each for each in mine if each.seed]
        losses = ", ".join(f"{each.loss:.4f}" for each in seeds)
        average = mean(each.loss for each in seeds)
        name = f"{optimizer} {OPTIONS.get(optimizer.removeprefix('bias_corrected_'), '')}".strip()
        yield f"| {name} | {grid} | {seeds[0].lr:g}: {losses} | {average:.4f} |"


def main() -> None:
    """Run the pairs and print, or write, the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plain", choices=RATES, help="one pair only")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    chosen = [arguments.plain] if arguments.plain else [*RATES]
    table = [*rows([found for name in chosen for found in runs(name, arguments.steps)])]
    about = f"{date.today()}, torch {torch.__version__}, {platform.machine()}, {load_text()}"
    command = f"`python benchmarks/bias_corrected.py --steps {arguments.steps}`, {about}"
    text = "\n".join(["# Bias-corrected recipes against the plain ones", "", command, "", *table])
    print(text)
    if not arguments.plain:
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
