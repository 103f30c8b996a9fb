"""Which twin of an op runs, decided by the tensors alone."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from modula.duality import Batch, Declaration, Setting, program_of
from modula.kernels.op import Cost, Locality, Op, elementwise
from modula.norms import Max
from ops import ELEMENTWISE


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of twins in the order of their calls; "stand_in" is a module with fused ones."""
    names: list[str] = []
    module = ModuleType("stand_in")

    def fused(*reads: object, **options: object) -> object:
        names.append("fused")
        return reads[0]

    module.fused = fused  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", module)
    return names


def op_that_tells(names: list[str], has_foreach: bool) -> Op:
    def plain(x: Tensor) -> Tensor:
        names.append("plain")
        return x

    def foreach(xs: list[Tensor]) -> list[Tensor]:
        names.append("foreach")
        return xs

    return Op(
        "tells", plain, lambda *_, **__: Cost(), foreach=foreach if has_foreach else None,
        fused_at="stand_in:fused",
    )  # fmt: skip


def test_on_a_cpu_no_fused_twin_is_even_imported(called: list[str]) -> None:
    sys.modules.pop("stand_in")
    x = torch.zeros(2)
    op_that_tells(called, has_foreach=False)(x)
    op_that_tells(called, has_foreach=True)([x])
    op_that_tells(called, has_foreach=True)(x)
    assert called == ["plain", "foreach", "plain"]


def test_on_cuda_the_fused_twin_comes_before_both_others(called: list[str]) -> None:
    with FakeTensorMode():
        x = torch.empty(2, device="cuda")
        op_that_tells(called, has_foreach=False)(x)
        op_that_tells(called, has_foreach=True)([x])
    assert called == ["fused", "fused"]


def test_without_a_fused_twin_cuda_runs_the_others(called: list[str]) -> None:
    with FakeTensorMode():
        x = torch.empty(2, device="cuda")
        for has_foreach, reads in ((False, x), (True, [x])):
            replace(op_that_tells(called, has_foreach), fused_at=None)(reads)
    assert called == ["plain", "foreach"]


def test_a_batch_on_cuda_reaches_the_fused_twins_of_elementwise_ops(
    called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of(Declaration(Setting(Max(2)), weight_decay=0.1), (3, 2))
    for each in program.lines:
        monkeypatch.setitem(each.op.__dict__, "fused_at", "stand_in:fused")
        each.op.__dict__.pop("fused", None)
    with FakeTensorMode():
        weights = [torch.empty(3, 2, device="cuda") for _ in range(2)]
        batch = Batch([program] * 2, weights)
        batch.propose([torch.empty_like(w) for w in weights], {})
        batch.update(torch.empty((), device="cuda", dtype=torch.float64), {})
    for each in program.lines:
        each.op.__dict__.pop("fused", None)
    assert called == ["fused"] * len(program.lines)


def test_an_elementwise_op_says_so_and_counts_entries() -> None:
    def plain(x: Tensor) -> Tensor:
        return x

    op = elementwise("same", plain, lambda xs: xs, flops=2, passes=3)
    assert op.locality is Locality.ELEMENTWISE and op.foreach is not None
    assert op.cost((10, 10), 4) == Cost(200, 1200)
    assert all(each.foreach for each in ELEMENTWISE.values())
