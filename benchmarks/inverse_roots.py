"""S^(-1/2) by eigendecomposition and by coupled iterations: accuracy and time.

python benchmarks/inverse_roots.py [--sides 256 768] [--batch 1] [--repeats 5]

Eigenvalues are log-uniform down to 1 / condition of the largest, to which damping (in units of the
largest) is added.  Residual: || X S X - I ||_F / sqrt(d).  Error: of X M for a normal M, against
float64.  "eigh" and "coupled" are the twins of the op `inverse_root`, in float32; "iteration" is
what the second one iterates, alone.  The op adds at least 2e-6 of the largest eigenvalue whatever
the damping, which the rows without damping show; the iteration adds nothing.  Milliseconds are the
least of all repeats, for the whole batch; on a CPU, of processor time.  They do not depend on the
condition.

Runs on CUDA where there is one, and writes its table to benchmarks/results/inverse_roots.md.
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from modula.kernels.moments.root import SMALLEST, inverse_root
from modula.kernels.moments.root_by_products import SQUARINGS, fewest, square_roots
from modula.kernels.spectral.bound import spectral_bound

RESULTS = Path(__file__).parent / "results" / "inverse_roots.md"
CASES = ((1e2, 0.0), (1e4, 0.0), (1e4, 1e-3), (1e6, 1e-3))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = torch.finfo(torch.float32).eps
Method = Callable[[Tensor, float], Tensor]


def eigendecomposed(s: Tensor, damping: float) -> Tensor:
    return inverse_root.plain(s, s, power=0.5, damping=in_means(s, damping))


def coupled(s: Tensor, damping: float) -> Tensor:
    return inverse_root.fused(s, s, power=0.5, damping=in_means(s, damping))


def iteration(s: Tensor, damping: float) -> Tensor:
    """The iteration alone, on S as it is damped."""
    damped = s + damping * torch.eye(s.shape[-1], device=s.device)
    bound = spectral_bound(damped, squarings=SQUARINGS)[..., None, None]
    polynomials = fewest((SMALLEST * EPS / 2) ** 0.5, EPS)
    return square_roots(damped / bound, polynomials)[1] / bound.sqrt()


METHODS: dict[str, Method] = {
    "eigh": eigendecomposed,
    "coupled": coupled,
    "iteration": iteration,
}


def in_means(s: Tensor, damping: float) -> float | Tensor:
    """Damping in units of the mean eigenvalue; the largest one is 1."""
    return damping / s.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True) if damping else 0.0


def factors(side: int, condition: float, batch: int) -> Tensor:
    """Random factors in float64, their largest eigenvalue 1."""
    exponents = torch.rand(batch, side, dtype=torch.float64)
    exponents[:, :2] = torch.tensor([0.0, 1.0])
    basis = torch.linalg.qr(torch.randn(batch, side, side, dtype=torch.float64))[0]
    return ((basis * (condition**-exponents).unsqueeze(-2)) @ basis.mT).to(DEVICE)


def accuracy(method: Method, s: Tensor, damping: float) -> str:
    """Residual and error, of the worst of the batch."""
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    x, damped = method(s.float(), damping).double(), s + damping * eye
    values, basis = torch.linalg.eigh(damped)
    m = torch.randn_like(s)
    exact = (basis * values.unsqueeze(-2) ** -0.5) @ basis.mT @ m
    residual = torch.linalg.matrix_norm(x @ damped @ x - eye) / s.shape[-1] ** 0.5
    error = torch.linalg.matrix_norm(x @ m - exact) / torch.linalg.matrix_norm(exact)
    return f"{float(residual.max()):.0e} / {float(error.max()):.0e}"


def milliseconds(method: Method, s: Tensor, repeats: int) -> str:
    """Least time of a call."""
    best, clock = float("inf"), time.perf_counter if s.is_cuda else time.process_time
    for _ in range(repeats + 1):
        start = clock()
        method(s, 1e-3)
        if s.is_cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return f"{1e3 * best:.1f}"


def where(batch: int) -> str:
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else processor()
    threads = "" if DEVICE == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{date.today()}, torch {torch.__version__}, {name}{threads}, batch {batch}"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(sides: list[int], batch: int, repeats: int) -> None:
    """Print the table and keep it."""
    torch.manual_seed(0)
    head = ["side", "condition", "damping"]
    head += [f"{name}: {what}" for what in ("residual / error", "ms") for name in METHODS]
    rows = []
    for side in sides:
        sample = factors(side, 1e2, batch).float()
        times = [milliseconds(method, sample, repeats) for method in METHODS.values()]
        for condition, damping in CASES:
            s = factors(side, condition, batch)
            found = [accuracy(method, s, damping) for method in METHODS.values()]
            rows.append([str(side), f"{condition:.0e}", f"{damping:g}", *found, *times])
    table = Table(*head, title=where(batch))
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)
    lines = [head, ["---"] * len(head), *rows]
    RESULTS.write_text(
        f"{(__doc__ or '').strip()}\n\n{where(batch)}\n\n"
        + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 768])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.sides, arguments.batch, arguments.repeats)
