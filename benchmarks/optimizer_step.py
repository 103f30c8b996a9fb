"""One optimizer step over the weights of GPT-2 small, against torch's own optimizers.

python benchmarks/optimizer_step.py                   # all 12 layers, the default for our side
python benchmarks/optimizer_step.py --torch-layers 12 # so for torch.optim.Muon: slow on most CPUs

Ratios are of medians within this run.  torch.optim.Muon multiplies in bfloat16, which many CPUs
only emulate; so it is timed on --torch-layers of the 12 equal layers and multiplied, and beside it
stands the same Newton-Schulz in float32, the fairest of its kind on a CPU.  Writes its tables to
benchmarks/results/optimizer_step.txt.
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import modula
from modula.kernels.spectral.polar import polar

RESULTS = Path(__file__).parent / "results"
CPUINFO = Path("/proc/cpuinfo")
WIDTH, DEPTH, VOCABULARY, CONTEXT = 768, 12, 50257, 1024
HIDDEN = {"qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH)}
HIDDEN |= {"up": (4 * WIDTH, WIDTH), "down": (WIDTH, 4 * WIDTH)}


class Block(nn.Module):
    """The weights of one GPT-2 block."""

    def __init__(self) -> None:
        super().__init__()
        for name, (fan_out, fan_in) in HIDDEN.items():
            self.add_module(name, nn.Linear(fan_in, fan_out))
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)


class Weights(nn.Module):
    """The weights of GPT-2 small with so many layers; it is never run."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.final = nn.LayerNorm(WIDTH)


def weights(layers: int = DEPTH) -> Weights:
    """A fresh model with a gradient on every weight."""
    torch.manual_seed(0)
    model = Weights(layers)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    return model


def hidden(model: nn.Module) -> list[nn.Parameter]:
    """What Muon takes: the embeddings are matrices too, but not of this kind."""
    return [w for w in model.parameters() if tuple(w.shape) in HIDDEN.values()]


def jordan_float32(x: Tensor) -> Tensor:
    """torch.optim.Muon's five steps, in float32."""
    x = x.mT if x.shape[0] > x.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.addmm(
            x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return x


def only_hidden(model: nn.Module) -> list[Tensor]:
    """The gradients of the hidden matrices."""
    return [w.grad for w in hidden(model) if w.grad is not None]


def seconds(step: Callable[[], object], repeat: int) -> float:
    """Median wall time of a step, after one to warm up if there are several."""
    times = []
    for _ in range(repeat + (repeat > 1)):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return median(times[-repeat:])


def muon_seconds(repeat: int, torch_layers: int) -> dict[str, float]:
    """Hidden matrices alone: torch's Muon, its arithmetic in float32, ours."""
    few, model = weights(torch_layers), weights()
    theirs = torch.optim.Muon(hidden(few))
    for weight in set(model.parameters()) - set(hidden(model)):
        weight.grad = None
    ours = modula.recipes.muon(model)
    gradients = only_hidden(model)
    return {
        f"torch.optim.Muon ({torch_layers} of 12 layers, scaled)": seconds(theirs.step, 1)
        * (DEPTH / torch_layers),
        "its Newton-Schulz in float32, nothing else": seconds(
            lambda: [jordan_float32(g) for g in gradients], repeat
        ),
        "modula.recipes.muon": seconds(ours.step, repeat),
    }


def adamw_seconds(repeat: int) -> dict[str, float]:
    """All weights: torch's AdamW and ours."""
    models = weights(), weights()
    theirs = torch.optim.AdamW(models[0].parameters(), foreach=True)
    ours = modula.recipes.adamw(models[1])
    return {
        "torch.optim.AdamW(foreach=True)": seconds(theirs.step, repeat),
        "modula.recipes.adamw": seconds(ours.step, repeat),
    }


def print_seconds(console: Console, title: str, took: dict[str, float]) -> None:
    """One table; ours is the last row."""
    *_, ours = took.values()
    table = Table("optimizer", "seconds a step", "times ours", title=title)
    for name, value in took.items():
        table.add_row(name, f"{value:.3f}", f"{value / ours:.2f}")
    console.print(table)


def relative_error(method: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """||method(x) - U V^T||_F / ||U V^T||_F"""
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    exact = u @ vh
    return float((method(x).to(exact.dtype) - exact).norm() / exact.norm())


def torch_direction(x: Tensor) -> Tensor:
    """What torch.optim.Muon steps along, read off one step from zero."""
    weight = nn.Parameter(torch.zeros_like(x))
    weight.grad = x.clone()
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, adjust_lr_fn="original").step()
    return -weight.detach() / max(1.0, x.shape[0] / x.shape[1]) ** 0.5


def momentum_like(shape: tuple[int, ...]) -> Tensor:
    """A rank-8 signal with noise under it, as momenta of a language model look."""
    signal = torch.randn(shape[0], 8) @ torch.randn(8, shape[1])
    return signal + 0.3 * torch.randn(shape)


def cpu() -> str:
    """The processor by name, where Linux tells it."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(repeat: int = 3, torch_layers: int = 1) -> None:
    """Print the tables: seconds, accuracy; and the time to derive."""
    console = Console(width=100, record=True)
    console.print(
        f"{date.today()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {cpu()}, "
        f"median of {repeat}"
    )
    with console.status("adamw"):
        print_seconds(console, "GPT-2 small, all 124 M weights", adamw_seconds(repeat))
    with console.status("muon"):
        took = muon_seconds(repeat, torch_layers)
    print_seconds(console, "GPT-2 small, the 48 hidden matrices", took)

    table = Table("matrix", "torch.optim.Muon", "modula", title="relative error of polar(x)")
    for shape in ((768, 768), (3072, 768)):
        for kind, x in (("Gaussian", torch.randn(shape)), ("rank 8 + noise", momentum_like(shape))):
            errors = [relative_error(method, x) for method in (torch_direction, polar)]
            table.add_row(f"{shape[0]} x {shape[1]} {kind}", *(f"{e:.4f}" for e in errors))
    console.print(table)

    model = weights()
    start = time.perf_counter()
    count = len(modula.recipes.muon(model).plan.rows)
    took_to_derive = time.perf_counter() - start
    console.print(f"derive + compile + plan of {count} weights: {took_to_derive:.3f} s")
    console.save_text(str(RESULTS / "optimizer_step.txt"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--torch-layers", type=int, default=1)
    main(**vars(parser.parse_args()))
