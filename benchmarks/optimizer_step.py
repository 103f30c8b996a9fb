"""One optimizer step over the weights of GPT-2 small, against torch's own optimizers.

python benchmarks/optimizer_step.py             # about three minutes: torch.optim.Muon takes most
python benchmarks/optimizer_step.py --repeat 5  # steadier medians

Ratios are of medians within this run.  Both sides get the same gradients; Muon's auxiliary AdamW
for embeddings, gains and biases is counted on both sides.
"""

import argparse
import platform
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import modula
from modula.kernels.polar import polar

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
    """The weights of GPT-2 small; it is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.final = nn.LayerNorm(WIDTH)


def weights() -> Weights:
    """A fresh model with a gradient on every weight."""
    torch.manual_seed(0)
    model = Weights()
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    return model


def is_hidden(weight: Tensor) -> bool:
    """Whether Muon takes it: the embeddings are matrices too, but not of this kind."""
    return weight.ndim == 2 and tuple(weight.shape) in HIDDEN.values()


class Pair:
    """torch.optim.Muon on hidden matrices and torch.optim.AdamW(foreach) on the rest."""

    def __init__(self, model: nn.Module) -> None:
        hidden = [w for w in model.parameters() if is_hidden(w)]
        rest = [w for w in model.parameters() if not is_hidden(w)]
        self.parts = torch.optim.Muon(hidden), torch.optim.AdamW(rest, foreach=True)

    def step(self) -> None:
        """Both steps."""
        for part in self.parts:
            part.step()


MAKERS: dict[str, Callable[[nn.Module], object]] = {
    "torch Muon + AdamW(foreach)": Pair,
    "modula.recipes.muon": modula.recipes.muon,
    "torch AdamW(foreach)": lambda model: torch.optim.AdamW(model.parameters(), foreach=True),
    "modula.recipes.adamw": modula.recipes.adamw,
}


def seconds(optimizer: object, repeat: int) -> float:
    """Median wall time of a step, after one to warm up."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        optimizer.step()  # type: ignore[attr-defined]
        times.append(time.perf_counter() - start)
    return median(times[1:])


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


def main(repeat: int = 3) -> None:
    """Print three tables: seconds, accuracy, construction."""
    console = Console(width=100)
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"median of {repeat}"
    )
    took = {}
    for name, make in MAKERS.items():
        with console.status(name):
            took[name] = seconds(make(weights()), repeat)
    table = Table(
        "optimizer", "seconds a step", "against torch", title="GPT-2 small, 124 M weights"
    )
    for (theirs, reference), (ours, mine) in zip(
        list(took.items())[::2], list(took.items())[1::2], strict=True
    ):
        table.add_row(theirs, f"{reference:.3f}", "1.00")
        ratio = reference / mine
        table.add_row(ours, f"{mine:.3f}", f"{ratio:.2f} x as fast ({mine / reference:.2f} of it)")
    console.print(table)

    table = Table(
        "matrix", "torch.optim.Muon", "modula", title="relative error of the polar factor"
    )
    for shape in ((768, 768), (3072, 768)):
        for kind, x in (("Gaussian", torch.randn(shape)), ("rank 8 + noise", momentum_like(shape))):
            errors = [relative_error(f, x) for f in (torch_direction, polar)]
            table.add_row(f"{shape[0]} x {shape[1]} {kind}", *(f"{e:.4f}" for e in errors))
    console.print(table)

    model = weights()
    start = time.perf_counter()
    count = len(modula.recipes.muon(model).plan.rows)
    console.print(
        f"derive + compile + plan of {count} weights: {time.perf_counter() - start:.3f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    main(parser.parse_args().repeat)
