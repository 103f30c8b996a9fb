"""An optimizer whose metrics read more of the network than its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modula.duality import Batch
from modula.network.declare import check_model
from modula.norms.checks import check_kind
from modula.optimizer.param_groups import names_of
from modula.optimizer.network_statistics import Watch
from modula.statistics import Statistics


class Watching(torch.optim.Optimizer):
    """What SteepestDescent asks of its network, and the passes in which the network shows it.

    A subclass fills `_batches`: for each group its batches, and the positions of their weights.
    """

    _batches: list[list[tuple[Batch, list[int]]]]
    _watch: Watch | None = None

    def watch(self, model: nn.Module, process_group: dist.ProcessGroup | None = None) -> None:
        """Collect from this model what the metrics read; a copy of an optimizer must be told.

        process_group  processes that average gradients, so that statistics are averaged too; None
                       for those of a DistributedDataParallel in the model.  Where several processes
                       run and neither says which, `step` raises RuntimeError

        Raises ValueError for weights whose layer does not show what is asked of it.
        """
        check_model("watch", model)
        if process_group is not None and dist.is_available():
            check_kind("watch", "process_group", process_group, dist.ProcessGroup)
        wanted = {
            name: batch.program.statistics
            for index, batch, positions in self._each_batch()
            for name in self._names(index, positions)
        }
        self._watch = Watch(model, wanted, process_group)
        self._expect()

    def asks_for(self, *statistics: str) -> bool:
        """Whether a metric reads one of these, such as "sampled_gradient"."""
        return self._watch is not None and self._watch.asks_for(*statistics)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Backward passes inside feed the metrics that read a Fisher, and leave .grad alone.

        with optimizer.sampled():
            F.cross_entropy(logits, modula.statistics.sampled_labels(logits)).backward()

        Where a GradScaler scales the loss, it shall scale this one too.
        """
        with self._watched().sampled():
            yield

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Forward and backward passes inside are at weights drawn from the metrics' posterior.

        Afterwards the weights are what they were, bit by bit.  Nothing happens where no metric
        has one, so that a training loop may always use it.  Several draws a step are averaged:
        enter as often, with a loss that is divided by their number.  Processes may draw alike or
        differently.
        """
        noises: dict[str, Tensor] = {}
        with torch.no_grad():
            for index, batch, positions in self._each_batch():
                if batch.program.draw:
                    drawn = batch.draw(self.param_groups[index])
                    noises |= zip(self._names(index, positions), drawn, strict=True)
        with self._watched().perturbed(noises) if noises else nullcontext():
            yield

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, and what metrics saw of the passes that made them."""
        super().zero_grad(set_to_none)
        if self._watch is not None:
            self._watch.forget()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler shall tell its scale and call `step` even where it skips one."""
        return self._watch is not None and bool(self._watch.wanted)

    def _watched(self) -> Watch:
        if self._watch is None:
            raise RuntimeError(
                "this optimizer is a copy and does not know its network: call "
                "optimizer.watch(model) before the next forward pass"
            )
        return self._watch

    def _each_batch(self) -> Iterator[tuple[int, Batch, list[int]]]:
        """The index of its group, a batch, and the positions of its weights in the group."""
        for index, compiled in enumerate(self._batches):
            yield from ((index, *each) for each in compiled)

    def _names(self, index: int, positions: list[int]) -> list[str]:
        """Full names of the weights at these positions of a group."""
        names = names_of(self.param_groups[index])
        return [names[i] for i in positions]

    def _expect(self) -> None:
        """Tell the network what the next step reads: nothing else is measured until then."""
        if self._watch is None or not self._watch.wanted:
            return
        self._watch.expect(
            {
                name: expected
                for index, batch, positions in self._each_batch()
                for name, expected in zip(
                    self._names(index, positions), batch.expects(), strict=True
                )
            }
        )

    def _statistics(self, loss_scale: Tensor | float) -> Statistics:
        """What the network has shown since the last step, by weight and name."""
        asks = any(batch.program.statistics for _, batch, _ in self._each_batch())
        return self._watched().take(loss_scale) if asks else {}
