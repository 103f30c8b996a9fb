"""Averaging of statistics across processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from modula.statistics.accumulators import ROWS
from modula.statistics.collector import Statistics

Key = tuple[str, str]  # a weight, and the name of a statistic of it


def share_(
    statistics: Statistics,
    expected: Mapping[str, Collection[str]],
    group: dist.ProcessGroup | None = None,
    device: torch.device | None = None,
) -> None:
    """Replace local statistics by those that one process with all the data would have.

    Statistics are averaged, never their inverses; rows of all processes follow each other, in
    the order of the processes.  What not every process measured is left out.  All processes hold
    the same weights and equally many rows, as data parallelism averages gradients.

    expected  what may be in `statistics`, in any process: the same in all of them
    group     the processes; None for all
    device    of the message about what there is; None for the CPU

    Raises ValueError where processes divided their batches into different numbers of microbatches.
    """
    # Sorted, as collective calls must come in one order in every process.
    keys = sorted((name, each) for name, wanted in expected.items() for each in wanted)
    if not keys or dist.get_world_size(group) == 1:
        return
    everywhere = {}
    for key, lengths in zip(keys, _lengths(statistics, keys, group, device), strict=True):
        if 0 in lengths:
            statistics.get(key[0], {}).pop(key[1], None)
        else:
            everywhere[key] = lengths
    _refuse_unequal(everywhere)
    rows = {key: lengths for key, lengths in everywhere.items() if key[1] in ROWS}
    _average_(statistics, [key for key in everywhere if key not in rows], group)
    for (name, each), lengths in rows.items():
        statistics[name][each] = _gathered(statistics[name][each], lengths, group)


def _lengths(
    statistics: Statistics,
    keys: Sequence[Key],
    group: dist.ProcessGroup | None,
    device: torch.device | None,
) -> list[list[int]]:
    """For each key and each process the first dim of the statistic, 0 where there is none."""
    own = torch.tensor([_length(statistics, key) for key in keys], device=device)
    found: list[list[int]] = torch.stack(_of_all(own, group), dim=1).tolist()
    return found


def _length(statistics: Statistics, key: Key) -> int:
    tensor = statistics.get(key[0], {}).get(key[1])
    if tensor is None:
        return 0
    return tensor.shape[0] if tensor.ndim else 1


def _refuse_unequal(everywhere: Mapping[Key, Sequence[int]]) -> None:
    for (name, each), lengths in everywhere.items():
        if each not in ROWS and len({*lengths}) > 1:
            raise ValueError(
                f"the processes hold {', '.join(map(str, lengths))} {each} of {name}: divide the "
                "batch of each into as many microbatches"
            )


def _average_(statistics: Statistics, keys: Sequence[Key], group: dist.ProcessGroup | None) -> None:
    tensors = [statistics[name][each].contiguous() for name, each in keys]
    # All are started before the first is awaited: many small messages overlap.
    works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor in tensors]
    for work in works:
        work.wait()
    for (name, each), tensor in zip(keys, tensors, strict=True):
        statistics[name][each] = tensor / dist.get_world_size(group)


def _gathered(rows: Tensor, lengths: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """The rows of all processes: those that have fewer send some zeros along."""
    padded = F.pad(rows, (0, 0, 0, max(lengths) - len(rows))).contiguous()
    parts = _of_all(padded, group)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def _of_all(own: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    """Tensors of one shape, in the order of the processes."""
    found = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, own, group=group)
    return found
