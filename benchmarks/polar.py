"""The polar factor: time and accuracy against torch.optim.Muon's own, on GPT-2 small's shapes.

python benchmarks/polar.py [--threads 2] [--repeats 3] [--rows 768]

Ratios are between times of the same run.  torch's bfloat16 runs once a shape: many CPUs are slow
at it.
Writes benchmarks/results/polar.md, unless --rows or --device is given.
"""

import argparse
import io
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim._muon import _zeropower_via_newtonschulz

from modula.kernels.spectral.polar import Gram, Standard, exact_polar, polar

RESULTS = Path(__file__).parent / "results" / "polar.md"
ROWS = 768
JORDAN = (3.4445, -4.7750, 2.0315)
Method = Callable[[Tensor], Tensor]


def torch_muon(x: Tensor) -> Tensor:
    return _zeropower_via_newtonschulz(x, JORDAN, 5, 1e-7)


def float32_rewrite(x: Tensor) -> Tensor:
    """The same five steps as torch's, in float32: what a careful user would write."""
    a, b, c = JORDAN
    y = x.mT if x.shape[0] > x.shape[1] else x
    y = y / y.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = y @ y.mT
        y = torch.addmm(y, torch.addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.mT if x.shape[0] > x.shape[1] else y


METHODS: dict[str, Method] = {
    "torch.optim.Muon": torch_muon,
    "the same, float32": float32_rewrite,
    "polar, standard": lambda x: polar(x, form=Standard()),
    "polar, Gram": lambda x: polar(x, form=Gram()),
    "polar": polar,
}


def seconds(method: Method, x: Tensor, repeats: int) -> tuple[float, float]:
    """Least (wall, processor) time of one call."""
    best = (float("inf"), float("inf"))
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        method(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        best = (min(best[0], wall), min(best[1], cpu))
    return best


def layer_shapes(n: int) -> dict[tuple[int, int], int]:
    """Shape -> how many of it one layer of GPT-2 has, of width n."""
    return {(3 * n, n): 1, (n, n): 1, (4 * n, n): 1, (n, 4 * n): 1}


def time_table(n: int, repeats: int, device: str) -> Table:
    table = Table(title=f"milliseconds, wall / processor, {torch.get_num_threads()} threads")
    table.add_column("shape")
    for name in METHODS:
        table.add_column(name, justify="right")
    layer = dict.fromkeys(METHODS, (0.0, 0.0))
    split = dict.fromkeys(METHODS, (0.0, 0.0))  # query, key and value as three n x n
    for shape, count in layer_shapes(n).items():
        x = torch.randn(shape, device=device)
        times = {}
        for _ in range(2):  # twice around, so that a busy moment does not fall on one method
            for name, method in METHODS.items():
                once = name == "torch.optim.Muon" and device == "cpu"
                if once and name in times:
                    continue
                new = seconds(method, x, 1 if once else repeats)
                times[name] = tuple(map(min, times.get(name, new), new))
        table.add_row(f"{shape[0]} x {shape[1]}", *(cell(*times[name]) for name in METHODS))
        for name, (wall, cpu) in times.items():
            add(layer, name, wall, cpu, count)
            add(split, name, wall, cpu, {(n, n): 4, (3 * n, n): 0}.get(shape, count))
    for title, total in (("layer", layer), ("layer, q k v split", split)):
        table.add_section()
        table.add_row(title, *(cell(*total[name]) for name in METHODS))
        for reference in ("torch.optim.Muon", "the same, float32"):
            row = (speedup(total, reference, name) for name in METHODS)
            table.add_row(f"times {reference}", *row)
    return table


def add(total: dict[str, tuple[float, float]], name: str, wall: float, cpu: float, n: int) -> None:
    total[name] = (total[name][0] + n * wall, total[name][1] + n * cpu)


def cell(wall: float, cpu: float) -> str:
    return f"{1e3 * wall:.0f} / {1e3 * cpu:.0f}"


def speedup(total: dict[str, tuple[float, float]], reference: str, name: str) -> str:
    pairs = zip(total[reference], total[name], strict=True)
    return " / ".join(f"{slow / fast:.2f}" for slow, fast in pairs)


def spread(n: int, sigma: Tensor, noise: float) -> Tensor:
    """Given singular values in random directions, and Gaussian noise whose largest is `noise`."""
    left, right = (torch.linalg.qr(torch.randn(n, len(sigma)))[0] for _ in range(2))
    return left * sigma @ right.mT + noise * torch.randn(n, n) / (2 * n**0.5)


def accuracy_table(n: int, device: str) -> Table:
    table = Table(title="relative Frobenius error against the SVD")
    table.add_column("matrix")
    for name in METHODS:
        table.add_column(name, justify="right")
    inputs = {
        f"Gaussian {n} x {n}": torch.randn(n, n),
        f"Gaussian {4 * n} x {n}": torch.randn(4 * n, n),
        "rank 16 + 2% noise": spread(n, torch.logspace(0, -1, 16), 0.02),
        "rank 4 + 0.6% noise": spread(n, torch.logspace(0, -1, 4), 0.006),
        "sigma_k = 1 / k": spread(n, 1 / torch.arange(1.0, n + 1), 0.0),
        "log-spaced to 1e-3": spread(n, torch.logspace(0, -3, n), 0.0),
    }
    for title, x in inputs.items():
        exact, y = exact_polar(x.double()), x.to(device)
        results = (method(y).cpu().double() for method in METHODS.values())
        table.add_row(title, *(f"{float((r - exact).norm() / exact.norm()):.3f}" for r in results))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS, help="width of the network")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    text = io.StringIO()
    console = Console(file=text, width=120)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    console.print(
        f"{date.today()}; torch {torch.__version__}; {platform.machine()} {arguments.device}; "
        f"load {load} of {os.cpu_count()} cores"
    )
    console.print(time_table(arguments.rows, arguments.repeats, arguments.device))
    console.print(accuracy_table(arguments.rows, arguments.device))
    print(text.getvalue())
    if (arguments.rows, arguments.device) == (ROWS, "cpu"):
        intro = "What `python benchmarks/polar.py` printed (the script says what is measured)."
        RESULTS.write_text(f"# The polar factor\n\n{intro}\n\n```text\n{text.getvalue()}```\n")


if __name__ == "__main__":
    main()
