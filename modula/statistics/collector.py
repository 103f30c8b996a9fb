"""Collects layer statistics with hooks, while a network runs forward and backward."""

import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modula.errors import suggest
from modula.statistics.accumulators import (
    FROM_LAYERS,
    GRADIENT_TIMES_NOISE,
    INPUTS,
    KNOWN,
    MICROBATCH_GRADIENTS,
    OF_MICROBATCHES,
    OF_WEIGHTS,
    OUTPUTS,
    SAMPLED,
    Accumulator,
    Statistic,
)
from modula.statistics.hooks import Handle, Hidden, observe
from modula.statistics.layer_readers import Owner, owners
from modula.statistics.microbatches import Microbatches
from modula.statistics.sparse import dense

Statistics = dict[str, dict[str, Tensor]]  # by weight, then by name of the statistic


class Collector:
    """Statistics of chosen weights over all backward passes since they were last taken.

        input_moment       A = sum of x x^T over the rows / rows      (fan_in, fan_in)
        output_moment      B = sum of e e^T over the rows / terms     (fan_out, fan_out)
        layer_inputs       the rows x                                 (rows, fan_in)
        output_gradients   the rows e, in the same order              (rows, fan_out)

    for a layer y = W x, a loss L that is a mean over `terms`, and e = terms * dL/dy.  Each
    position of each example is a row; the same four with reduced_ before their name have one row
    an example, x averaged and e summed over positions.  And, for any weight that is trained,

        microbatch_gradients   g_1 ... g_M, of mean p.grad            (M, *shape)
        gradient_times_noise   sum of g n over the passes inside      (*shape)
                               `perturbed`, at the weight plus n

    All nine exist with sampled_ in front too: those are of the passes inside `sampled()`, the
    others of all other passes.

    What a backward pass reaches is counted, once: no forward pass without one, no checkpointed
    layer twice.  The uses of a shared weight add up.  A microbatch ends where the model is called
    again.  A bias appends nothing to x, as it is a weight of its own.  Compiled graphs break at
    each layer; install before the first call.  Hooks go with the collector, and copies and pickles
    of the model have none.

    wanted   names of statistics, under the full name of the weight

    Raises ValueError, with nothing installed, for a weight whose owner does not show its inputs.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> collector = Collector(model, {"weight": {"input_moment"}})
    >>> model(torch.tensor([[1.0, 0.0], [1.0, 2.0]])).mean().backward()
    >>> collector.take()["weight"]["input_moment"]
    tensor([[1., 1.],
            [1., 2.]])

    Source: Martens and Grosse 2015, arXiv:1503.05671; Eschenhagen et al. 2023, arXiv:2311.00636.
    """

    def __init__(self, model: nn.Module, wanted: Mapping[str, Collection[str]]) -> None:
        weights = dict(model.named_parameters(remove_duplicate=False))
        self._wanted = {name: _checked(name, wanted[name], weights) for name in wanted}
        layers = [
            (name, owner)
            for name, names in self._wanted.items()
            if any(statistic.removeprefix(SAMPLED) in FROM_LAYERS for statistic in names)
            for owner in owners(model, name, weights[name])
        ]
        self._expected: Mapping[str, Collection[str]] = self._wanted
        self._paused, self._pass = False, ""
        self._accumulators: dict[tuple[str, str], Accumulator] = {}
        self._microbatches = _no_microbatches()
        self._noises: Mapping[str, Tensor] = {}
        self._products: dict[str, Tensor] = {}
        self._handles: list[Handle] = [self._watch(name, owner) for name, owner in layers]
        self._handles += [
            self._receive(name, weights[name])
            for name, names in self._wanted.items()
            if not {*OF_WEIGHTS}.isdisjoint(names)
        ]
        if any(not {*OF_MICROBATCHES}.isdisjoint(names) for names in self._wanted.values()):
            self._handles.append(self._divide(model))
        weakref.finalize(self, _remove, self._handles)

    def take(self, terms: int | None = None, loss_scale: Tensor | float = 1.0) -> Statistics:
        """All statistics by weight and name, which are then reset; unreached weights are left out.

        Several passes make one mean: K equal parts of a batch send back the gradient of L / K.

        terms        of the mean, all passes together.  By default as many as rows, as for one
                     row an example and for a loss at every token; for convolutions as many as
                     examples.  Give it where a sequence has one loss, or a layer is used twice.
        loss_scale   by which a GradScaler multiplied the loss
        """
        taken: Statistics = {name: {} for name in self._wanted}
        for (name, statistic), accumulator in self._accumulators.items():
            if statistic.removeprefix(SAMPLED) in INPUTS:
                taken[name][statistic] = accumulator.value(1.0, accumulator.rows)
            else:
                # Autograd gives e / terms, as the loss is a mean; a moment of e has no such factor.
                count = accumulator.terms if terms is None else terms
                taken[name][statistic] = accumulator.value(count / loss_scale, count)
        for before, microbatches in self._microbatches.items():
            for name, gradients in microbatches.values(loss_scale).items():
                taken[name][before + MICROBATCH_GRADIENTS] = gradients
        for name, product in self._products.items():
            taken[name][GRADIENT_TIMES_NOISE] = product / loss_scale
        self._accumulators, self._microbatches, self._products = {}, _no_microbatches(), {}
        return {name: statistics for name, statistics in taken.items() if statistics}

    @contextmanager
    def kept_on_error(self) -> Iterator[None]:
        """Inside, an error brings back what was taken."""
        before = self._accumulators, self._microbatches, self._products
        try:
            yield
        except BaseException:
            self._accumulators, self._microbatches, self._products = before
            raise

    def forget(self) -> None:
        """Drop what was seen outside `sampled`, such as in a step that is left out."""
        kept = {key: each for key, each in self._accumulators.items() if key[1].startswith(SAMPLED)}
        self._accumulators, self._products = kept, {}
        self._microbatches[""] = Microbatches()

    def expect(self, statistics: Mapping[str, Collection[str]]) -> None:
        """Measure only these from now on; a metric need not read its statistics in every step."""
        self._expected = {
            name: {*wanted}.intersection(statistics.get(name, ()))
            for name, wanted in self._wanted.items()
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Backward passes inside are not measured, such as the training loss's beside a Fisher."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Backward passes inside, at sampled labels, are what sampled_... statistics are of."""
        before, self._pass = self._pass, SAMPLED
        try:
            yield
        finally:
            self._pass = before

    @contextmanager
    def perturbed(self, noises: Mapping[str, Tensor]) -> Iterator[None]:
        """Backward passes inside are at weights that are moved by these noises."""
        before, self._noises = self._noises, noises
        try:
            yield
        finally:
            self._noises = before

    def remove(self) -> None:
        """Remove all hooks from the model."""
        _remove(self._handles)

    def _watch(self, name: str, owner: Owner) -> Handle:
        alive = weakref.ref(self)

        @torch.no_grad()
        def see(x: Tensor | None, gradient: Tensor) -> None:
            collector = alive()
            if collector is not None and not collector._paused:
                collector._see(name, owner, x, gradient)

        reads_inputs = any(each.removeprefix(SAMPLED) in INPUTS for each in self._wanted[name])
        return observe(owner.layer, see, reads_inputs)

    def _see(self, name: str, owner: Owner, x: Tensor | None, gradient: Tensor) -> None:
        # Under autocast the products below would be rounded to half precision.
        with torch.autocast(gradient.device.type, enabled=False):
            if self._wants(name, OUTPUTS):
                self._add(name, OUTPUTS, owner.reader.outputs(owner.layer, gradient), owner)
            if x is not None and self._wants(name, INPUTS):
                self._add(name, INPUTS, owner.reader.inputs(owner.layer, x), owner)

    def _receive(self, name: str, weight: nn.Parameter) -> Handle:
        """What a pass sends to a weight: of this process alone, before others' is averaged in."""
        alive = weakref.ref(self)

        @torch.no_grad()
        def receive(gradient: Tensor) -> None:
            collector = alive()
            if collector is not None and not collector._paused:
                collector._count(name, dense(gradient))

        return weight.register_hook(receive)

    def _count(self, name: str, gradient: Tensor) -> None:
        wanted = self._wanted[name]
        if self._pass + MICROBATCH_GRADIENTS in wanted:
            # Counted even if not kept: M is the same for all weights.
            expected = self._pass + MICROBATCH_GRADIENTS in self._expected[name]
            self._microbatches[self._pass].add_(name, gradient if expected else None)
        if not self._pass and GRADIENT_TIMES_NOISE in wanted and name in self._noises:
            self._multiply(name, gradient)

    def _multiply(self, name: str, gradient: Tensor) -> None:
        x = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        product, before = x * self._noises[name], self._products.get(name)
        self._products[name] = product if before is None else before.add_(product)

    def _divide(self, model: nn.Module) -> Handle:
        """A microbatch begins where the model is called, unless a checkpoint repeats the call."""

        alive = weakref.ref(self)

        def called(*_: object) -> None:
            collector = alive()
            # Unless a backward pass is going on.
            if collector is not None and torch._C._current_graph_task_id() == -1:
                for microbatches in collector._microbatches.values():
                    microbatches.begin_()

        return Hidden(model, model.register_forward_pre_hook(torch.compiler.disable(called)))

    def _wants(self, name: str, table: dict[str, Statistic]) -> list[str]:
        """What this pass shall show of a weight, out of the table."""
        return [each for each in table if self._pass + each in self._expected[name]]

    def _add(self, name: str, table: dict[str, Statistic], x: Tensor, owner: Owner) -> None:
        """x: (examples, positions, features); no example, no entry."""
        if not x.numel():
            return
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        for statistic in self._wants(name, table):
            rows = table[statistic].share(x)
            terms = min(len(rows), owner.reader.terms(*x.shape[:2]))
            key = (name, self._pass + statistic)
            self._accumulators.setdefault(key, table[statistic].accumulator()).add_(rows, terms)


def _remove(handles: list[Handle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


def _checked(name: str, wanted: Collection[str], weights: dict[str, nn.Parameter]) -> list[str]:
    """The names, in an order that is the same in every process."""
    if name not in weights:
        raise ValueError(f"the model has no weight {name}: {suggest(name, weights)}")
    for statistic in wanted:
        if statistic not in KNOWN:
            raise ValueError(
                f"no statistic of {name} is called {statistic!r}: {suggest(statistic, KNOWN)}"
            )
    if not {*OF_WEIGHTS}.isdisjoint(wanted) and not weights[name].requires_grad:
        raise ValueError(
            f"{name} is frozen, so no pass has a gradient for it: ask for those of weights that "
            "are trained"
        )
    return sorted(wanted)


def _no_microbatches() -> dict[str, Microbatches]:
    """By what stands before the name of their statistic."""
    return {before: Microbatches() for before in ("", SAMPLED)}
