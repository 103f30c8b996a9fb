"""Statistics that several processes share."""

import torch.distributed as dist

from modula.statistics.collector import Statistics
from modula.statistics.running import ROWS


def average_(statistics: Statistics, group: dist.ProcessGroup | None = None) -> None:
    """Replace each statistic by its mean over the processes: what one large batch would give.

    It averages statistics, never their inverses.  Every process holds the same weights and names,
    over equally many rows, as data parallelism averages gradients.

    Raises ValueError for rows, which have no mean: collect the moment instead.
    """
    for name, taken in statistics.items():
        for statistic in ROWS:
            if statistic in taken:
                raise ValueError(
                    f"{statistic} of {name} are rows of this process, which an average would mix "
                    "up: collect a moment, or gather the rows"
                )
    tensors = [tensor for taken in statistics.values() for tensor in taken.values()]
    works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor in tensors]
    for work in works:
        work.wait()
    for tensor in tensors:
        tensor.div_(dist.get_world_size(group))
