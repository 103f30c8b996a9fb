"""Two processes with half a batch each know what one process with all of it knows."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from modula.statistics import Collector, share_
from tests.support.processes import in_two_processes, needs_fork

NAMES = ("0.weight", "2.weight")
STATISTICS = {
    *("input_moment", "output_moment", "reduced_output_moment", "microbatch_gradients"),
    *("layer_inputs", "output_gradients"),
}
EXPECTED = dict.fromkeys(NAMES, STATISTICS)


def collected(x: Tensor, parts: int = 1) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    collector = Collector(model, EXPECTED)
    for part in x.chunk(parts):
        (model(part).pow(2).sum(-1).mean() / parts).backward()
    return collector.take()


def batch() -> Tensor:
    return torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(1)).double()


def shared_half(rank: int) -> dict[str, dict[str, Tensor]]:
    statistics = collected(batch().chunk(2)[rank])
    share_(statistics, EXPECTED)
    return statistics


@needs_fork
def test_both_know_what_one_large_batch_says(tmp_path: Path) -> None:
    truth = collected(batch())
    for found in in_two_processes(tmp_path, shared_half):
        assert_close(found, truth)


def rows(rank: int) -> Tensor:
    return torch.full((2 + rank, 3), float(rank))


def lopsided(rank: int) -> dict[str, dict[str, Tensor]]:
    """Each process has rows; only one has a moment, and only the other a weight b."""
    statistics = {"a": {"layer_inputs": rows(rank)}}
    if rank == 0:
        statistics["a"]["input_moment"] = torch.eye(3)
    else:
        statistics["b"] = {"sampled_gradient": torch.ones(()), "input_moment": torch.eye(3)}
    kinds = {"input_moment", "layer_inputs", "sampled_gradient"}
    share_(statistics, {"b": kinds, "a": kinds})
    return statistics


@needs_fork
def test_rows_may_be_unequal_and_what_not_all_have_is_left_out(tmp_path: Path) -> None:
    for found in in_two_processes(tmp_path, lopsided):
        assert {key for key, value in found.items() if value} == {"a"}
        assert found["a"].keys() == {"layer_inputs"}
        assert_close(found["a"]["layer_inputs"], torch.cat([rows(0), rows(1)]))


def divided(rank: int) -> None:
    statistics = {"a": {"microbatch_gradients": torch.ones(2 + rank, 4)}}
    with pytest.raises(ValueError, match="the processes hold 2, 3 microbatch_gradients of a"):
        share_(statistics, {"a": ["microbatch_gradients"]})


@needs_fork
def test_unequal_microbatches_are_refused(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, divided) == [None, None]  # what fails there is raised here
