"""No learning rate against tuned learning rates: a byte-level GPT on the Python standard library.

python benchmarks/no_learning_rate.py                  # about 20 minutes on 2 cores
python benchmarks/no_learning_rate.py --steps 600      # the longer run

Every baseline is tuned over a factor-2 grid of 7 learning rates, AdamW at two pairs of betas too;
automatic gets no choice at all: its radius is the default, the neighbours are shown to tell how
much it matters.  Same network, text, batches, linear decay to zero, for all; two processes of one
thread each.  Writes no_learning_rate_STEPS.md and .png to benchmarks/results.
"""

import argparse
import platform
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from rich.progress import track
from torch.optim.lr_scheduler import LambdaLR

import modula
from modula.training.config import Config
from modula.training.data import even_windows, load_text, random_windows
from modula.training.run import build_model

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
WINDOWS = 128


@dataclass(frozen=True)
class Contender:
    """One run: who, with which options, from which seed."""

    family: str
    options: tuple[tuple[str, Any], ...] = ()
    seed: int = 0

    def optimizer(self, model: modula.GPT) -> torch.optim.Optimizer:
        """A fresh optimizer for the model."""
        options = dict(self.options)
        if self.family == "AdamW":
            return torch.optim.AdamW(model.parameters(), weight_decay=0.1, **options)
        return modula.recipes.RECIPES[self.family](model, **options)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.options) or "nothing to choose"


def contenders(lrs: int = 7) -> Iterator[Contender]:
    """All runs of the table."""
    grid = [2.0**k for k in range(lrs)]
    for betas, factor in product(((0.9, 0.95), (0.9, 0.999)), grid):
        yield Contender("AdamW", (("lr", 0.001 * factor), ("betas", betas)))
    for factor in grid:
        yield Contender("muon", (("lr", 0.01 * factor), ("adamw_lr", 0.008)))
        yield Contender("modular", (("lr", 0.025 * factor),))
    for radius in (4.0, 8.0, 16.0):
        yield Contender("automatic", (("radius", radius),) if radius != 8 else ())
    for seed in (1, 2, 3):
        yield Contender("automatic", (), seed)


def train(contender: Contender, steps: int) -> list[tuple[int, float]]:
    """(step, validation loss) every tenth of the run."""
    torch.set_num_threads(1)
    config = Config(steps=steps, seed=contender.seed)
    torch.manual_seed(config.seed)
    model, text = build_model(config), load_text()
    optimizer = contender.optimizer(model)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / steps)
    held_out = even_windows(text.validation, config.context, WINDOWS)
    curve = []

    def loss_on(windows: torch.Tensor) -> torch.Tensor:
        logits = model(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    for step in range(1, steps + 1):
        windows = random_windows(text.train, config.context, config.batch, config.seed, step)
        loss = loss_on(windows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 10) == 0 or step == steps:
            with torch.no_grad():
                chunks = [loss_on(chunk).item() for chunk in held_out.split(16)]
            curve.append((step, sum(chunks) / len(chunks)))
    return curve


def table(found: dict[Contender, list[tuple[int, float]]]) -> list[str]:
    """Markdown rows, best first within a family."""
    rows = ["| optimizer | chosen | seed | validation loss |", "| --- | --- | --- | --- |"]
    ordered = sorted(found, key=lambda c: (c.family, found[c][-1][1]))
    rows += [f"| {c.family} | {c} | {c.seed} | {found[c][-1][1]:.4f} |" for c in ordered]
    return rows


def best(found: dict[Contender, list[tuple[int, float]]], family: str) -> Contender:
    """The run of a family with the lowest last loss."""
    return min((c for c in found if c.family == family), key=lambda c: found[c][-1][1])


def draw(found: dict[Contender, list[tuple[int, float]]], path: Path, steps: int) -> None:
    """Validation loss of each family's best, and of every seed without a choice."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for family in ("AdamW", "muon", "modular"):
        chosen = best(found, family)
        axes[0].plot(*zip(*found[chosen], strict=True), label=f"{family}: {chosen}")
        lrs: dict[float, float] = {}
        for c in (c for c in found if c.family == family and c.seed == 0):
            lr = dict(c.options)["lr"]
            lrs[lr] = min(lrs.get(lr, float("inf")), found[c][-1][1])
        axes[1].semilogx(*zip(*sorted(lrs.items()), strict=True), ".-", label=family)
    plain = [c for c in found if c.family == "automatic" and not c.options]
    for contender in plain:
        label = (
            f"automatic: nothing to choose, {len(plain)} seeds" if contender is plain[0] else None
        )
        axes[0].plot(*zip(*found[contender], strict=True), color="black", label=label)
        axes[1].axhline(found[contender][-1][1], color="black", linewidth=1)
    low = min(curve[-1][1] for curve in found.values())
    axes[0].set(xlabel="step", ylabel="validation loss, nats a byte", ylim=(low - 0.1, low + 1.8))
    axes[1].set(xlabel="learning rate", ylim=(low - 0.1, low + 1.8), title=f"after {steps} steps")
    axes[0].set_title("the best of each family")
    axes[0].legend()
    axes[1].legend(title="black: automatic")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(steps: int = 200, processes: int = 2) -> None:
    """Run everything, write the table and the picture."""
    runs = list(contenders())
    with ProcessPoolExecutor(processes) as pool:
        curves = pool.map(train, runs, [steps] * len(runs))
        found = dict(zip(runs, track(curves, total=len(runs), description="runs"), strict=True))
    for seed in (1, 2, 3):
        tuned = best(found, "AdamW")
        again = Contender("AdamW", tuned.options, seed)
        found[again] = train(again, steps)
    text = [
        f"# No learning rate against tuned ones, {steps} steps",
        "",
        f"`python benchmarks/no_learning_rate.py --steps {steps}`, {date.today()}, "
        f"torch {torch.__version__}, {platform.machine()}, {load_text()}",
        "",
        *table(found),
    ]
    RESULTS.mkdir(exist_ok=True)
    name = f"no_learning_rate_{steps}"
    (RESULTS / f"{name}.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    draw(found, RESULTS / f"{name}.png", steps)
    print("\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    main(**vars(parser.parse_args()))
