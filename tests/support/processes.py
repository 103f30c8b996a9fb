"""Functions that run in two processes at once, which talk to each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

needs_fork = pytest.mark.skipif(
    "fork" not in mp.get_all_start_methods(), reason="processes start by fork"
)


def in_two_processes(folder: Path, run: Callable[[int], Any]) -> list[Any]:
    """What run(0) and run(1) return, each called in a process of its own."""
    mp.start_processes(_called, (str(folder), run), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _called(rank: int, folder: str, run: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        torch.save(run(rank), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
