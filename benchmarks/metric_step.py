"""A step under a metric against Muon's, over the hidden matrices of GPT-2 small.

python benchmarks/metric_step.py                 # all 12 layers, 24 steps an optimizer
python benchmarks/metric_step.py --layers 2      # quicker; turns are then spread less evenly

Ratios are of medians within this run; the recipes take turns step by step, so that whatever else
the machine does meets all alike.  The first steps, in which roots are renewed more often, are
not counted.  Writes its table to benchmarks/results/metric_step.txt.
"""

import argparse
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch
from optimizer_step import HIDDEN, WIDTH, cpu, momentum_like
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import modula

RESULTS = Path(__file__).parent / "results"
RECIPES = ("muon", "one_sided", "kl_shampoo", "soap", "psgd_pro", "shampoo")
WARM_UP = 16  # steps: the last early renewal of a period of ten is step 8
# Nominal FLOPs of a step on a square block, in d^3: Muon's five steps; KL-Shampoo with roots kept
# ten steps and taken by polynomials; PRO.
NOMINAL = {"muon": "30", "kl_shampoo": "24", "psgd_pro": "28"}


def matrices(layers: int) -> nn.ModuleList:
    """The hidden matrices of so many blocks."""
    torch.manual_seed(0)
    return nn.ModuleList(
        nn.Linear(fan_in, fan_out, bias=False)
        for _ in range(layers)
        for fan_out, fan_in in HIDDEN.values()
    )


def main(layers: int = 12, steps: int = 24) -> None:
    """Print seconds, evenness, FLOPs and state of each recipe."""
    optimizers = {name: modula.recipes.RECIPES[name](matrices(layers)) for name in RECIPES}
    gradients = [[momentum_like(shape) for shape in HIDDEN.values()] for _ in range(3)]
    took: dict[str, list[float]] = {name: [] for name in RECIPES}
    for step in track(range(WARM_UP + steps), "steps"):
        for name, optimizer in optimizers.items():
            weights = optimizer.param_groups[0]["params"]
            for i, weight in enumerate(weights):
                weight.grad = gradients[step % 3][i % len(HIDDEN)]
            start = time.perf_counter()
            optimizer.step()
            took[name].append(time.perf_counter() - start)
            for weight in weights:
                weight.grad = None
    console = Console(width=110, record=True)
    threads = torch.get_num_threads()
    console.print(f"{date.today()}, torch {torch.__version__}, {threads} threads, {cpu()}")
    table = Table(
        "recipe", "seconds a step", "times Muon", "slowest / median", "FLOPs a step",
        "in d^3 a 768-block", "nominal", "state bytes a weight entry",
        title=f"{4 * layers} hidden matrices of GPT-2 small",
    )  # fmt: skip
    muon = median(took["muon"][WARM_UP:])
    for name, optimizer in optimizers.items():
        times = took[name][WARM_UP:]
        flops = sum(row.flops for row in optimizer.plan.rows)
        entries = sum(weight.numel() for weight in optimizer.param_groups[0]["params"])
        state = sum(
            x.numel() * x.element_size() for each in optimizer.state.values() for x in each.values()
        )
        table.add_row(
            name,
            f"{median(times):.2f}",
            f"{median(times) / muon:.2f}",
            f"{max(times) / median(times):.2f}",
            f"{flops:.3g}",
            f"{flops / (entries * WIDTH):.1f}",
            NOMINAL.get(name, ""),
            f"{state / entries:.1f}",
        )
    console.print(table)
    console.save_text(str(RESULTS / "metric_step.txt"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=24)
    main(**vars(parser.parse_args()))
