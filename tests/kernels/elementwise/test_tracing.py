"""Every elementwise op is traced from its plain twin: the graph computes what the twin does."""

import inspect

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from modula.kernels.op import Op
from ops import ELEMENTWISE

NUMBERS = ("lr", "step", "steps", "mean_square")  # 0-d tensors; all others are weight-shaped
OPTIONS = {"beta": 0.9, "power": 0.5}  # of all others 0.25 will do


def arguments(op: Op, seed: int) -> tuple[list[Tensor], dict[str, float]]:
    """Positive tensors and numbers for a twin's parameters, by their names and kinds."""
    generator = torch.Generator().manual_seed(seed)
    tensors, options = [], {}
    for name, each in inspect.signature(op.plain).parameters.items():
        if each.kind is inspect.Parameter.KEYWORD_ONLY:
            options[name] = OPTIONS.get(name, 0.25)
        elif name in NUMBERS:
            tensors.append(torch.tensor(2.0 + seed))
        else:
            tensors.append(torch.rand(3, 4, generator=generator) + 0.1)
    return tensors, options


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_traced_twin_computes_the_same_on_other_numbers(name: str) -> None:
    op = ELEMENTWISE[name]
    tensors, options = arguments(op, 0)
    traced = make_fx(lambda *reads: op.plain(*reads, **options))(*tensors)
    others, _ = arguments(op, 1)
    torch.testing.assert_close(traced(*others), op.plain(*others, **options), rtol=0, atol=0)


def test_all_of_them_are_found() -> None:
    found = {name.rsplit(".", 1)[1] for name in ELEMENTWISE}
    assert found >= {"average", "unbiased_average", "step", "decay", "whiten", "stein_hessian"}
