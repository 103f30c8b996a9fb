"""Two processes with half a batch each know what one process with all of it knows."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from modula.statistics import Collector, average_

STATISTICS = {"input_moment", "output_moment", "reduced_output_moment", "microbatch_gradients"}


def collected(x: Tensor, parts: int) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    collector = Collector(model, {"0.weight": STATISTICS, "2.weight": STATISTICS})
    for part in x.chunk(parts):
        (model(part).pow(2).sum(-1).mean() / parts).backward()
    return collector.take()


def batch() -> Tensor:
    return torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(1)).double()


def half(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        statistics = collected(batch().chunk(2)[rank], parts=1)
        average_(statistics)
        torch.save(statistics, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes start by fork")
def test_the_average_is_that_of_one_large_batch(tmp_path: Path) -> None:
    mp.start_processes(half, (str(tmp_path),), nprocs=2, start_method="fork")
    truth = collected(batch(), parts=1)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), truth)


def test_rows_are_refused() -> None:
    statistics = {"0.weight": {"layer_inputs": torch.zeros(2, 2)}}
    with pytest.raises(ValueError, match="layer_inputs of 0.weight are rows"):
        average_(statistics)
