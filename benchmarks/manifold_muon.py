"""Manifold Muon: how near its directions are to the steepest ones, and what a step costs.

python benchmarks/manifold_muon.py [--threads 2] [--seconds 20] [--shapes 768x256,3072x768]

Momentum sequences: an average (0.95) of gradients, at a weight that the step moves (lr 0.02):
    Gaussian    every gradient a fresh normal matrix
    rank 8      a slowly turning matrix of rank 8, and noise whose norm is 1/10 of its largest
    training    tanh(W x) learns a teacher of its own kind from batches of 64
Gap: 1 - <G, A> / U, with A made feasible and U an upper bound by weak duality, in float64.
Steps are whole optimizer steps, the two recipes by turns, the least time of each.
Writes benchmarks/results/manifold_muon.md, unless --shapes is given.
"""

import argparse
import io
import logging
import platform
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from modula import recipes
from modula.kernels.spectral.bound import spectral_bound
from modula.kernels.spectral.clip import spectral_clip
from modula.kernels.spectral.near_polar import near_polar
from modula.kernels.spectral.polar import polar
from modula.kernels.spectral.polynomials import PolarExpress
from modula.kernels.spectral.products import symmetric
from modula.kernels.tangent.stiefel import POLAR, stiefel_map
from modula.kernels.tangent.stiefel_bound import _search, stiefel_dual_bound

RESULTS = Path(__file__).parent / "results" / "manifold_muon.md"
SHAPES = ((768, 768), (768, 256), (3072, 768), (256, 768), (768, 3072))
SAMPLES = (1, 5, 20, 40)  # steps whose directions are certified; other methods at the last one
MSIGN = PolarExpress(steps=10, lower=1e-3, safety=1.01)
ROUNDS, RHO, RELAXATION = 10, 0.5, 1.7  # of ADMM
Method = Callable[[Tensor, Tensor], Tensor]


def to_tangent(w: Tensor, x: Tensor) -> Tensor:
    return x - w @ symmetric(w.mT @ x)


def made_feasible(w: Tensor, a: Tensor) -> Tensor:
    a = to_tangent(w, a)
    return a / sigma_max(a).clamp(min=1.0)


def sigma_max(a: Tensor) -> Tensor:
    return torch.linalg.eigvalsh((a.mT @ a).double())[-1].clamp(min=0).sqrt().to(a.dtype)


def one_shot(w: Tensor, g: Tensor) -> Tensor:
    """The polar factor of the tangent part."""
    return polar(to_tangent(w, g), polynomials=MSIGN)


def dual_ascent(w: Tensor, g: Tensor) -> Tensor:
    """The published loop: 100 steps of 0.01 (1 - k / 100), ten-step polar factors."""
    multiplier = -(w.mT @ g + g.mT @ w) / 4
    for k in range(100):
        a = polar(g + 2 * w @ multiplier, polynomials=MSIGN)
        slope = w.mT @ a + a.mT @ w
        multiplier = multiplier - 0.01 * (1 - k / 100) * slope
    return polar(g + 2 * w @ multiplier, polynomials=MSIGN)


def clip_admm(w: Tensor, g: Tensor) -> Tensor:
    """ADMM on the two constraints, sigma_max(A) <= 1 and W^T A + A^T W = 0.

        M  = T + W sym(W^T (Omega - A / rho))              T = tangent part of G, unit rms sigma
        A' = clip(A + rho (relaxation M + (1 - relaxation) Omega))      sigma -> min(sigma, 1)
        Omega' = what A' - A leaves of the clip's argument, over rho

    A has sigma_max <= 1 in every round and is tangent in the limit.

    Source: Boyd et al. 2011, Distributed Optimization and Statistical Learning via ADMM, sections
    3.1 and 3.4.3.
    """
    # Twice: the first time may cancel nearly all of g, and what is left need not be tangent yet.
    t = to_tangent(w, to_tangent(w, g / g.abs().amax()))
    t = omega = t * (t.shape[-1] ** 0.5 / torch.linalg.matrix_norm(t))
    a = polar(t, **POLAR)
    for _ in range(ROUNDS):
        m = t + w @ symmetric(w.mT @ (omega - a / RHO))
        relaxed = RELAXATION * m + (1 - RELAXATION) * omega
        clipped = spectral_clip(a + RHO * relaxed, high=1.0, **POLAR)
        omega, a = relaxed + (a - clipped) / RHO, clipped
    # Not the polar factor of G + W S: where m is odd and m < 2 n, the best A is not orthonormal.
    a = to_tangent(w, a)
    return a / spectral_bound(a)


def gram_irls(w: Tensor, g: Tensor) -> Tensor:
    """The polar factor of G + W S, for the multiplier S of eight reweighted least squares."""
    return polar(g + w @ _search(w[None], g[None], 8)[0], polynomials=MSIGN)


METHODS: dict[str, Method] = {
    "project, then polar": one_shot,
    "dual ascent, 100 steps": dual_ascent,
    f"clip-form ADMM, {ROUNDS} rounds": clip_admm,
    "Gram IRLS, 8 rounds": gram_irls,
    "stiefel_map (this library)": stiefel_map,
}


def gradients(kind: str, m: int, n: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """For each step, the gradient at a weight."""
    teacher = torch.linalg.qr(torch.randn(m, n))[0]
    left, right = (torch.linalg.qr(torch.randn(k, 8))[0] for k in (m, n))
    while True:
        noise = torch.randn(m, n) / (m**0.5 + n**0.5)
        left = torch.linalg.qr(left + 0.05 * torch.randn(m, 8) / m**0.5)[0]
        x = torch.randn(n, 64)
        fixed = noise if kind == "Gaussian" else left * torch.linspace(1, 0.2, 8) @ right.mT
        fixed = fixed + 0.1 * noise if kind == "rank 8" else fixed

        def gradient(w: Tensor, x: Tensor = x, fixed: Tensor = fixed) -> Tensor:
            if kind != "training":
                return fixed
            y = torch.tanh(w @ x)
            return ((y - torch.tanh(teacher @ x)) * (1 - y * y)) @ x.mT / x.shape[1]

        yield gradient


def sequence(kind: str, m: int, n: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, weight, momentum of rms singular value one), m >= n."""
    torch.manual_seed(0)
    w = torch.linalg.qr(torch.randn(m, n))[0]
    momentum = torch.zeros(m, n)
    for step, gradient in zip(range(1, SAMPLES[-1] + 1), gradients(kind, m, n), strict=False):
        momentum = momentum.lerp(gradient(w), 0.05)
        g = momentum * (n**0.5 / momentum.norm())
        if step in SAMPLES:
            yield step, w, g
        w = near_polar(w - 0.02 * stiefel_map(w, g))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def gap_of(w: Tensor, g: Tensor, a: Tensor, bound: Tensor) -> tuple[float, float]:
    """(gap, tangency): the second ||W^T A + A^T W||_F / (2 ||A||_F)."""
    w, g, a = w.double(), g.double(), a.double()
    tangent = g - w @ symmetric(w.mT @ g)
    gap = 1 - float((tangent * made_feasible(w, a)).sum() / bound)
    return gap, float(symmetric(w.mT @ a).norm() / a.norm())


def methods_of(m: int, n: int) -> dict[str, Method]:
    return {k: f for k, f in METHODS.items() if m > n or f not in (clip_admm, gram_irls)}


def gap_table(shapes: tuple[tuple[int, int], ...]) -> Table:
    table = Table(title=f"gap and tangency at step {SAMPLES[-1]}, time of a direction")
    for column in ("shape", "momentum", "method", "gap %", "tangency", "ms", "gaps % by step"):
        table.add_column(column, justify="left" if column in "momentum method" else "right")
    ours: list[float] = []
    for shape in shapes:
        n, m = sorted(shape)
        wide = shape[0] < shape[1]
        for kind in ("Gaussian", "rank 8", "training"):
            gaps = []
            for _, w, g in sequence(kind, m, n):
                bound = stiefel_dual_bound(w, g - w @ symmetric(w.mT @ g))
                gaps.append(gap_of(w, g, stiefel_map(w, g), bound)[0])
            ours += gaps
            by_step = " ".join(f"{100 * gap:.1f}" for gap in gaps)
            methods = {"stiefel_map (this library)": stiefel_map} if wide else methods_of(m, n)
            for name, method in methods.items():
                once = partial(method, w, g)
                took = min(seconds(once) for _ in range(1 if "100" in name else 5))
                gap, tangency = gap_of(w, g, method(w, g), bound)
                cells = (f"{100 * gap:.2f}", f"{tangency:.0e}", f"{1e3 * took:.1f}")
                mine = by_step if method is stiefel_map else ""
                table.add_row(f"{shape[0]}x{shape[1]}", kind, name, *cells, mine)
            table.add_section()
            print(shape, kind, by_step, flush=True)
    table.caption = (
        f"stiefel_map: median gap {100 * median(ours):.2f} %, worst {100 * max(ours):.2f} %"
    )
    return table


def step_table(shapes: tuple[tuple[int, int], ...], budget: float) -> Table:
    table = Table(title=f"milliseconds of one optimizer step, {torch.get_num_threads()} thread(s)")
    for column in ("shape", "muon", "manifold_muon", "ratio"):
        table.add_column(column, justify="right")
    for m, n in shapes:
        optimizers = []
        for recipe in (recipes.muon, recipes.manifold_muon):
            model = nn.Linear(n, m, bias=False)
            model.weight.grad = torch.randn(m, n)
            optimizers.append(recipe(model, lr=0.02))
        best, start = [float("inf")] * 2, time.perf_counter()
        while time.perf_counter() - start < budget:
            best = [min(b, seconds(o.step)) for b, o in zip(best, optimizers, strict=True)]
        muon, ours = (1e3 * each for each in best)
        table.add_row(f"{m}x{n}", f"{muon:.1f}", f"{ours:.1f}", f"{ours / muon:.2f}")
        print(m, n, muon, ours, ours / muon, flush=True)
    return table


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing, a shape")
    parser.add_argument("--shapes", default="", help="such as 768x256,3072x768; default: all")
    arguments = parser.parse_args()
    logging.getLogger("modula").setLevel(logging.ERROR)
    shapes = tuple(
        (int(m), int(n))
        for m, n in (each.split("x") for each in arguments.shapes.split(",") if each)
    )
    text = io.StringIO()
    console = Console(file=text, width=118)
    console.print(
        f"{date.today()}; {cpu()}; torch {torch.__version__}; {platform.python_version()}"
    )
    for threads in sorted({1, arguments.threads}):
        torch.set_num_threads(threads)
        console.print(step_table(shapes or SHAPES, arguments.seconds))
    console.print(gap_table(shapes or SHAPES))
    print(text.getvalue())
    if not shapes:
        intro = (
            "What `python benchmarks/manifold_muon.py` printed (the script says what is measured)."
        )
        RESULTS.write_text(f"# Manifold Muon\n\n{intro}\n\n```text\n{text.getvalue()}```\n")


if __name__ == "__main__":
    main()
