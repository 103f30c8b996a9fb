"""Statistics of the network that metrics read besides gradients, gathered between two steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from weakref import WeakSet

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modula.duality.program.names import (
    GRADIENT_TIMES_NOISE,
    MICROBATCHES,
    SAMPLED,
    SAMPLED_GRADIENT,
    SAMPLED_MICROBATCHES,
)
from modula.optimizer.gradients import squares_are_finite
from modula.statistics import (
    INPUTS,
    Collector,
    Statistics,
    dense,
    gradients_kept,
    perturbed,
    share_,
)

logger = logging.getLogger(__name__)

# Statistics of the passes inside a context of the optimizer; no other pass shows them.
CONTEXTS = {"sampled": SAMPLED, "perturbed": (GRADIENT_TIMES_NOISE,)}

UNWATCHED = (
    "this optimizer is a copy and does not know its network: call optimizer.watch(model) before "
    "the next forward pass"
)


_measuring: WeakSet[NetworkStatistics] = WeakSet()  # each weight's layer is measured by one


class NetworkStatistics:
    """Statistics of a network's weights, gathered between two steps by hooks on its layers.

    model   the network that the weights belong to
    wanted  names of statistics by full name of the weight
    group   the processes that average gradients; None for those of a DistributedDataParallel
            in the model

    Raises ValueError for a weight whose layer does not show what is wanted of it.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Mapping[str, Sequence[str]],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.wanted = {name: tuple(names) for name, names in wanted.items() if names}
        self._expected: Mapping[str, Sequence[str]] = self.wanted
        self._group = _group_of(model) if group is None else group
        self._weights = dict(model.named_parameters())
        self._model = model
        # A gradient at sampled labels needs no hook: after the passes it stands in .grad.
        hooked = {
            name: [each for each in names if each != SAMPLED_GRADIENT]
            for name, names in self.wanted.items()
        }
        hooked = {name: names for name, names in hooked.items() if names}
        self._collector = Collector(model, hooked) if hooked else None
        self._replaced, self._hooked = False, {id(self._weights[name]) for name in hooked}
        if self._collector:
            self._replace_others()
        self._sampled: dict[str, Tensor] = {}
        self._entered: list[str] = []  # contexts that are not left yet
        self._unseen = [context for context, names in CONTEXTS.items() if self.asks_for(*names)]
        everything = (each for names in self.wanted.values() for each in names)
        # Those of what goes into a layer do not depend on a factor of the loss.
        self.is_scaled = any(each.removeprefix("sampled_") not in INPUTS for each in everything)

    def again(self, wanted: Mapping[str, Sequence[str]]) -> NetworkStatistics:
        """Statistics of the same network, whose weights are others now."""
        found = NetworkStatistics(self._model, wanted, self._group)
        if self._collector:
            self._collector.remove()
        return found

    def _replace_others(self) -> None:
        """Take over from those who measure one of these weights: hooks of all would add up."""
        for other in [*_measuring]:
            if other._collector and not self._hooked.isdisjoint(other._hooked):
                other._collector.remove()
                other._replaced = True
                _measuring.discard(other)
        _measuring.add(self)

    def asks_for(self, *statistics: str) -> bool:
        """Whether any weight wants one of these statistics."""
        return any(not {*statistics}.isdisjoint(names) for names in self.wanted.values())

    def expect(self, statistics: Mapping[str, Sequence[str]]) -> None:
        """Measure these until told otherwise, and no others."""
        self._expected = statistics
        if self._collector:
            self._collector.expect(statistics)

    def forget(self) -> None:
        """Drop what passes at the training loss showed so far; those at sampled labels stay."""
        if self._collector:
            self._collector.forget()

    @contextmanager
    def kept_on_error(self) -> Iterator[None]:
        """Inside, an error brings back what was taken."""
        before = self._sampled, self._unseen
        try:
            with self._collector.kept_on_error() if self._collector else nullcontext():
                yield
        except BaseException:
            self._sampled, self._unseen = before
            raise

    def take(self, loss_scale: Tensor | float = 1.0) -> Statistics:
        """Statistics since they were last taken, by weight and name.

        loss_scale  by which the losses of all passes were multiplied

        Raises ValueError where microbatches are to be compared and there are not two, RuntimeError
        where another optimizer measures the layers now.
        """
        if self._replaced:
            raise RuntimeError(
                "an optimizer that was made later for the same weights measures their layers now, "
                "and this one no more: step with that one, or call optimizer.watch(model) on this "
                "one before the next forward pass"
            )
        found = self._collector.take(loss_scale=loss_scale) if self._collector else {}
        for name, gradient in self._sampled.items():
            found.setdefault(name, {})[SAMPLED_GRADIENT] = gradient / loss_scale
        self._sampled = {}
        self._share_(found)
        self._check_microbatches(found)
        _drop_overflows_(found)
        if self._unseen:
            self._warn_of_unseen(found)
        return found

    def _check_microbatches(self, found: Statistics) -> None:
        """Raise ValueError where a metric compares microbatches and there are not two."""
        # Such a metric measures nothing in a single one, and its weight would stay in silence.
        for name, names in self._expected.items():
            for statistic in {MICROBATCHES, SAMPLED_MICROBATCHES}.intersection(names):
                parts = found.get(name, {}).get(statistic)
                trained = statistic == MICROBATCHES and self._weights[name].grad is not None
                if parts is None and trained or parts is not None and len(parts) < 2:
                    raise ValueError(_too_few(name, statistic, 0 if parts is None else 1))

    def _share_(self, found: Statistics) -> None:
        """Make the statistics those of all processes that average gradients."""
        if not self.wanted or not dist.is_available() or not dist.is_initialized():
            return
        if self._group is None and dist.get_world_size() > 1:
            raise RuntimeError(
                f"statistics of {next(iter(self.wanted))} are of one of {dist.get_world_size()} "
                "processes, whose weights would drift apart: give the optimizer the "
                "DistributedDataParallel as its model, or process_group=..., the processes that "
                "average gradients: torch.distributed.group.WORLD for all, "
                "torch.distributed.new_group([rank], use_local_synchronization=True) for none but "
                "this one"
            )
        if self._group is not None:
            share_(found, self._expected, self._group, next(iter(self._weights.values())).device)

    def _warn_of_unseen(self, found: Statistics) -> None:
        """Say once if the first step comes before any pass that a metric depends on."""
        seen = {name for statistics in found.values() for name in statistics}
        for context in self._unseen:
            if seen.isdisjoint(CONTEXTS[context]):
                logger.warning(
                    "a metric reads what backward passes inside optimizer.%s() show, and there "
                    "was none yet: until there is one it measures nothing",
                    context,
                )
        self._unseen = []

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Backward passes inside feed the statistics called sampled_..., and leave .grad alone."""
        seen = self._collector.sampled() if self._collector else nullcontext()
        with self._inside("sampled"), gradients_kept(self._model), seen:
            yield
            for name, weight in self._weights.items():
                if weight.grad is not None and SAMPLED_GRADIENT in self.wanted.get(name, ()):
                    self._add(name, dense(weight.grad))

    def _add(self, name: str, gradient: Tensor) -> None:
        """Passes of one step add up."""
        before = self._sampled.get(name)
        if before is not None:
            self._sampled[name] = before + gradient
        else:
            # A view is part of a DistributedDataParallel's bucket, which the next pass overwrites.
            self._sampled[name] = gradient.clone() if gradient._is_view() else gradient

    @contextmanager
    def perturbed(self, noises: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, each named weight is moved by its noise, which gradients are multiplied with."""
        seen = self._collector.perturbed(noises) if self._collector else nullcontext()
        weights = [self._weights[name] for name in noises]
        with self._inside("perturbed"), perturbed(weights, noises.values()), seen:
            yield

    @contextmanager
    def _inside(self, context: str) -> Iterator[None]:
        self._entered.append(context)
        try:
            yield
        finally:
            self._entered.remove(context)

    def refuse_step(self) -> None:
        """Raise RuntimeError inside `sampled` and `perturbed`: weights or gradients are others."""
        if self._entered:
            raise RuntimeError(
                f"step was called inside optimizer.{self._entered[-1]}(), where weights or "
                "gradients are others for a moment: leave it first, then step"
            )


def _group_of(model: nn.Module) -> dist.ProcessGroup | None:
    """The processes among which a DistributedDataParallel averages the gradients of the model."""
    wrapped = (each for each in model.modules() if isinstance(each, DistributedDataParallel))
    return next((each.process_group for each in wrapped), None)


def _drop_overflows_(found: Statistics) -> None:
    """Drop gradients at sampled labels where a square of any overflows, with a warning."""
    # A GradScaler, which sees the gradients of the training loss alone, cannot tell.
    names = (SAMPLED_GRADIENT, SAMPLED_MICROBATCHES)
    sampled = [each[name] for each in found.values() for name in names if name in each]
    if not squares_are_finite(sampled):
        logger.warning(
            "gradients at sampled labels are not finite, or too large to be squared: the metric "
            "leaves them out"
        )
        for statistics in found.values():
            for name in names:
                statistics.pop(name, None)


def _too_few(name: str, statistic: str, count: int) -> str:
    passes = "at sampled labels " if statistic == SAMPLED_MICROBATCHES else ""
    return (
        f"the metric of {name} compares microbatches, and this step had {count} {passes}for it: "
        "call the model and loss.backward() two times or more before a step, each time on an "
        "equal part of the batch, with the loss divided by their number"
    )
