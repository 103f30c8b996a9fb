"""One batch whose gradients are 10 000 times too long, in the middle of a run, under every recipe.

python benchmarks/outlier.py

A network of 2 x 64 hidden units learns 10 classes from 32 features, 64 examples a step in two
microbatches, at each recipe's own learning rate, for 120 steps.  In step 60 all gradients are
multiplied by 1e4: as they are, or behind clip_grad_norm_(1.0) in every step.  The loss is that of
4096 examples not trained on, of one seed.  Writes benchmarks/results/outlier.md.
"""

import logging
import platform
from datetime import date
from math import inf
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from modula.optimizer.gradients import NonFiniteGradient
from modula.recipes import RECIPES
from modula.statistics import sampled_labels

RESULTS = Path(__file__).parent / "results" / "outlier.md"
STEPS, OUTLIER, FACTOR, SEEDS = 120, 60, 1e4, 1
AFTER = 25  # steps behind the outlier


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def data(teacher: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 32)
    with torch.no_grad():
        return x, torch.distributions.Categorical(logits=40 * teacher(x)).sample()


def losses(name: str, seed: int, factor: float, clips: bool) -> tuple[float, float, float]:
    """The loss before the outlier, soon after it, and at the end."""
    torch.manual_seed(seed)
    teacher, net = network(), network()
    unseen, labels = data(teacher, 4096)
    optimizer = RECIPES[name](net)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for _ in range(2):
            x, y = data(teacher, 32)
            with optimizer.perturbed():
                (factor_at(step, factor) * F.cross_entropy(net(x), y) / 2).backward()
            if optimizer.asks_for("sampled_gradient", "sampled_output_moment"):
                with optimizer.sampled():
                    logits = net(x)
                    (F.cross_entropy(logits, sampled_labels(logits)) / 2).backward()
        if clips:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        try:
            optimizer.step()
        except NonFiniteGradient:
            return inf, inf, inf
        if step in (OUTLIER - 1, OUTLIER + AFTER, STEPS - 1):
            with torch.no_grad():
                found.append(F.cross_entropy(net(unseen), labels).item())
    before, after, last = found
    return before, after, last


def factor_at(step: int, factor: float) -> float:
    return factor if step == OUTLIER else 1.0


def row(name: str) -> list[str]:
    """The cells of one recipe."""
    cells = [name]
    for factor, clips in ((1.0, False), (FACTOR, False), (FACTOR, True)):
        runs = [losses(name, seed, factor, clips) for seed in range(SEEDS)]
        _, after, last = (median(each) for each in zip(*runs, strict=True))
        cells += [f"{last:.3g}"] if factor == 1 else [f"{after:.3g}", f"{last:.3g}"]
    return cells


def main() -> None:
    """Try each recipe, print its row, and keep the table."""
    logging.disable(logging.WARNING)
    head = ["recipe", "without outlier: end", f"outlier: {AFTER} steps later", "end"]
    head += ["clipped: 25 steps later", "end"]
    rows = [row(name) for name in track([*RECIPES], console=Console(stderr=True))]
    lines = ["| " + " | ".join(each) + " |" for each in (head, ["---"] * len(head), *rows)]
    text = "\n".join(lines)
    print(text)
    RESULTS.write_text(
        f"# One batch with gradients 10 000 times too long\n\n`python benchmarks/outlier.py`, "
        f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}.\n\n{(__doc__ or '').split(chr(10) * 2, 2)[2].strip()}\n\n{text}\n"
    )


if __name__ == "__main__":
    main()
