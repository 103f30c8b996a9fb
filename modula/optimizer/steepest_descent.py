"""The one optimizer: steepest descent in whatever geometry the network declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modula.duality import Accuracy, Average, Decay, Momentum, Plan, Potential, Unit, plan_of
from modula.network.declare import check_model
from modula.network.trained import trained_weights
from modula.norms.checks import check_kind
from modula.optimizer.automatic import Automatic
from modula.optimizer.certification import Certification
from modula.optimizer.grad_scaler import noting_who_asks_, unscaled
from modula.optimizer.gradients import NonFiniteGradient, usable_gradients
from modula.optimizer.group_options import Values, decaying_alike, downhill
from modula.optimizer.initial_projection import InitialProjection, project_
from modula.optimizer.interrupts import interrupts_held
from modula.optimizer.membership import ModelWatch, check_members
from modula.optimizer.network_statistics import UNWATCHED, NetworkStatistics
from modula.optimizer.network_wide import length_rule
from modula.optimizer.options import check_options
from modula.optimizer.outliers import USUAL, Gradients, without_outlier
from modula.optimizer.own_weights import OwnWeights
from modula.optimizer.param_groups import (
    DeclaredWeight,
    Group,
    declared_params,
    groups_of,
    names_of,
    param_groups,
    warn_of_limited_metrics,
)

# What a copy or a pickle needs besides torch's own; batches are derived again.
_PICKLED = (
    *("length_rule", "on_nonfinite", "skipped", "state_dtype"),
    *("_last_lr", "_order", "_own", "_certification"),
)


class SteepestDescent(torch.optim.Optimizer):
    r"""Steepest descent under declared norms and manifolds.

        D = argmax <m, D>  over  ||D|| <= 1, D tangent at w
        w <- retract((1 - lr budget weight_decay) w - lr budget s D)

    for each weight w, an average m of its gradients, a length s, and the budget of w, which is its
    part of the step of the whole network.

    model         a normed network, or any torch model: see modula.declare
    lr            norm of one step, or Automatic(): then param_groups hold a multiplier
    momentum      which average m of the gradients is followed
    potential     s: Unit() for 1, Sharp() for the dual norm of m, Clip(rho) for the smaller,
                  ShortStep(rho) for the smaller of rho and what the whole step gains, with decay
    weight_decay  decoupled; 1 / weight_decay is the radius of the ball each weight stays in; a
                  Decay acts elsewhere
    groups        declarations by group, in place of the network's own (recipes use this); each
                  holds its momentum, potential and weight decay
    on_nonfinite  "raise" before anything changes, or "skip" the step and count it in `skipped`;
                  a finite gradient whose square overflows leaves out its weight, if that has a
                  metric, with a warning
    certify_every certify all directions once in so many steps; the worst gaps are logged and kept
                  in `certificates`: see modula.optimizer.certification for what it costs; None
                  never does
    state_dtype   torch.bfloat16 keeps weight-shaped state in half the memory, rounded at random;
                  None keeps it in float32, or in the dtype of the weight if that is finer
    process_group the processes that average gradients, for metrics that read statistics of the
                  network: see `watch`
    accuracy      Exact() computes all directions by decompositions, Fast() spectral ones by few
                  products, off as the plan says; None leaves it to the declarations: Fast()

    State exists from construction; `print(optimizer.plan)` says what is done to each weight.
    Frozen weights (requires_grad=False) are left out, and those without entries.

    Raises ValueError for weights without a declaration and complex ones, NoRule where no rule is.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Automatic = 0.1,
        *,
        momentum: Momentum = Average(0.95),
        potential: Potential = Unit(),
        weight_decay: float | Decay = 0.0,
        groups: Sequence[Group] | None = None,
        maximize: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        certify_every: int | None = None,
        state_dtype: torch.dtype | None = None,
        process_group: dist.ProcessGroup | None = None,
        accuracy: Accuracy | None = None,
    ) -> None:
        given = (lr, momentum, potential, weight_decay, groups, maximize, accuracy)
        check_options(model, given, on_nonfinite, state_dtype)
        self.state_dtype = state_dtype
        self.length_rule = length_rule(lr, potential)
        self.on_nonfinite = on_nonfinite
        self.skipped = 0
        self._certification = None if certify_every is None else Certification(certify_every)
        self._statistics: NetworkStatistics | None = None
        self._model: ModelWatch | None = None
        self._last_lr: Tensor | None = None
        self._overflowing: set[int] = set()  # ids of weights that the last step left out
        groups = groups_of(model, groups, momentum, potential, weight_decay)
        self._own = OwnWeights(self.length_rule, state_dtype, self._certification)
        rate = 1.0 if isinstance(lr, Automatic) else lr
        weights = trained_weights(model)
        self._order = {name: place for place, name in enumerate(weights)}
        # Collected while groups are added, and made when all is derived: until then an error
        # leaves every weight as it was.
        self._projections: list[InitialProjection] | None = []
        rows = param_groups(groups, weights, rate, accuracy)
        super().__init__(rows, {"lr": rate, "maximize": maximize})
        self.watch(model, process_group)
        project_(self._projections)
        self._projections = None
        warn_of_limited_metrics(self._own.all)
        self.defaults.update(self._own.rows.cycled())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add weights: {"params": [(name, weight), ...], "declarations": [Declaration, ...]}.

        Raises ValueError if a declaration is missing: nothing is guessed; and for an unknown key.
        """
        self._settle()
        params, declarations, options = declared_params(param_group)
        super().add_param_group({**options, "params": params})
        group = self.param_groups[-1]
        for key in self.defaults.keys() - options.keys() - {"lr", "maximize"}:
            del group[key]  # a default of the first group, which this one's programs may not have
        rows = zip(names_of(group), group["params"], declarations, strict=True)
        weights = decaying_alike([DeclaredWeight(*row) for row in rows])
        try:
            programs, projections = self._own.derived(weights)
            own = self._own.rows.of(weights, programs, group)
            self._watch_with({w.name: p.statistics for w, p in zip(weights, programs, strict=True)})
        except (ValueError, LookupError):
            self.param_groups.pop()
            raise
        self._own.add(group, weights, own, self.state)
        self._expect()
        if self._projections is None:
            project_(projections)
        else:
            self._projections += projections

    @property
    def plan(self) -> Plan:
        """What is done to each weight, and why: print it."""
        kept = self.state_dtype.itemsize if self.state_dtype else None
        return plan_of(self._own.plan_rows(self._order), kept)

    # --- statistics of the network ------------------------------------------------------------

    def watch(self, model: nn.Module, process_group: dist.ProcessGroup | None = None) -> None:
        """Collect from this model what the metrics read; a copy of an optimizer must be told.

        An optimizer that measured the same layers until now does so no more; its `step` says so.

        process_group  processes that average gradients, so that statistics are averaged too; None
                       for those of a DistributedDataParallel in the model.  Where several processes
                       run and neither says which, `step` raises RuntimeError

        Raises ValueError for weights whose layer does not show what is asked of it.
        """
        check_model("watch", model)
        if process_group is not None and dist.is_available():
            check_kind("watch", "process_group", process_group, dist.ProcessGroup)
        self._statistics = NetworkStatistics(model, self._own.batches.statistics(), process_group)
        self._model = ModelWatch(model)
        self._expect()

    def asks_for(self, *statistics: str) -> bool:
        """Whether a metric reads one of these, such as "sampled_gradient"."""
        return self._statistics is not None and self._statistics.asks_for(*statistics)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Backward passes inside feed the metrics that read a Fisher, and leave .grad alone.

        with optimizer.sampled():
            F.cross_entropy(logits, modula.statistics.sampled_labels(logits)).backward()

        Where a GradScaler scales the loss, it shall scale this one too.
        """
        with self._network_statistics().sampled():
            yield

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Forward and backward passes inside are at weights drawn from the metrics' posterior.

        Afterwards the weights are what they were, bit by bit.  Nothing happens where no metric
        has one, so that a training loop may always use it.  Several draws a step are averaged:
        enter as often, with a loss that is divided by their number.  Processes may draw alike or
        differently.
        """
        with torch.no_grad():
            noises = self._own.batches.noises(self._settle())
        with self._network_statistics().perturbed(noises) if noises else nullcontext():
            yield

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, and what metrics saw of the passes that made them."""
        super().zero_grad(set_to_none)
        if self._statistics is not None:
            self._statistics.forget()
        if self._own.batches.reads_statistics:
            self._follow()  # before the next pass, of which a state that starts anew reads more

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler shall tell its scale and call `step` even where it skips one."""
        wants = self._statistics is not None and bool(self._statistics.wanted)
        return noting_who_asks_(self, wants)

    def _network_statistics(self) -> NetworkStatistics:
        if self._statistics is None:
            raise RuntimeError(UNWATCHED)
        return self._statistics

    def _expect(self) -> None:
        """Let the network show what the next step reads, and nothing else."""
        if self._statistics is not None and self._statistics.wanted:
            self._statistics.expect(self._own.batches.next_statistics())

    # --- the step -----------------------------------------------------------------------------

    @torch.no_grad()
    def step(
        self, closure: Callable[[], Any] | None = None, *, loss_scale: Tensor | float | None = None
    ) -> Any:
        """One step; returns the closure's loss, if there is one.

        loss_scale  by which all losses since the last step were multiplied, those in `sampled` too;
                    .grad is not, any more.  A GradScaler says it by itself

        Raises NonFiniteGradient unless on_nonfinite="skip", ValueError where a metric needs the
        loss_scale and nobody says it, RuntimeError inside `sampled` or `perturbed`.  An error
        leaves weights, state, statistics and counts as they were; only where memory runs out in
        plain arithmetic some may have moved, and a note says so.  Ctrl-C waits for the step's end.
        """
        network = self._statistics
        if network is not None:
            network.refuse_step()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        is_scaled = network is not None and network.is_scaled
        kept = network.kept_on_error() if network is not None else nullcontext()
        with unscaled(self, loss_scale, is_scaled) as scaled, interrupts_held(), kept:
            self._advance(*scaled)
        return loss

    def _advance(self, loss_scale: Tensor | float, overflowed: bool) -> None:
        """Move the weights, unless a gradient overflowed."""
        options = self._settle()
        if self._model is not None:
            self._model.look(self._own.all)
        # Taken even where the step is left out, whose statistics shall not be in the next one's.
        # What is maximized has a negative loss: of it, too, are the gradients times noise.
        seen, reads_statistics = {}, self._own.batches.reads_statistics
        if reads_statistics:
            sign = -1 if options[0]["maximize"] else 1
            seen = self._network_statistics().take(sign * loss_scale)
        gradients = None if overflowed else self._gradients(options)
        if gradients is not None:
            usual = None
            if isinstance(self.length_rule, Automatic):
                gradients, usual = without_outlier(gradients, self.param_groups[0].get(USUAL))
            self._last_lr = self._own.batches.step(options, gradients, seen)
            if usual is not None:
                self.param_groups[0][USUAL] = usual
        if reads_statistics:
            self._expect()

    def _gradients(self, options: Sequence[Values]) -> Gradients | None:
        """Gradients to step with, by id of their weight; None where the step is skipped."""
        try:
            gradients, self._overflowing = usable_gradients(
                self._own.all, self._overflowing, self.state_dtype
            )
        except NonFiniteGradient:
            if self.on_nonfinite == "raise":
                raise
            self.skipped += 1
            return None
        return downhill(gradients, self._own.groups, options)

    @property
    def last_lr(self) -> float:
        """Length of the last step in the network's norm; reading it waits for the device."""
        return float("nan") if self._last_lr is None else abs(float(self._last_lr))

    @property
    def certificates(self) -> dict[str, float]:
        """The worst gap of each rule so far; reading it waits for the device."""
        worst = {} if self._certification is None else self._certification.worst
        return {rule: float(gap) for rule, gap in worst.items()}

    # --- what a person changes, saves and loads -----------------------------------------------

    def _settle(self) -> list[Values]:
        """Follow or refuse what was done to groups, weights and state since the last step.

        What the groups say, by the names of programs.
        """
        check_members(self.param_groups, self._own.groups)
        self._follow()
        return self._own.values(self.param_groups, self.state)

    def _follow(self) -> None:
        if self._own.follow(self.state):
            self._expect()

    def reset(self, *weights: Tensor | str) -> None:
        """Bring the state of these weights, tensors or full names, or of all to its first values.

        Raises ValueError for what is no weight of the optimizer.
        """
        chosen = [self._own.find(weight).weight for weight in weights]
        self._settle()
        self.state.update({weight: {} for weight in chosen or [*self.state]})
        self._settle()

    def replace(
        self, old: Tensor | str, new: Tensor, rows: Sequence[int] | Tensor | None = None
    ) -> None:
        """Go on with another tensor in the place of a weight, under its name and declaration.

            state of new[i]  <-  state of old[rows[i]],  or its first value where rows[i] is -1

        An estimate that mixes rows starts anew, with a logged line; other weights keep all state.

        old   the weight, or its full name
        new   a Parameter; where metrics read layers, put it into the model before
        rows  whole numbers, one a row of `new`; None keeps all

        Raises ValueError, with nothing changed, for shapes that do not agree.
        """
        before = self._own.find(old)
        if self._model is not None and self._own.batches.reads_statistics:
            self._model.check_has(before.name, new)
        made = self._own.replacement(before, new, rows, self.state)
        self._watch_with({})
        group, place = self._own.place_of(before)
        self.param_groups[group]["params"][place : place + 1] = [new]
        self._own.replace(made, self.state)
        self._expect()

    def _watch_with(self, more: Mapping[str, Sequence[str]]) -> None:
        """Watch a model whose weights have changed, also for statistics of new ones."""
        if self._statistics is not None:
            wanted = {**self._own.batches.statistics(), **more}
            self._statistics = self._statistics.again(wanted)

    def state_dict(self) -> dict[str, Any]:
        """State by the place of each weight, and the groups, with the names of their weights."""
        self._settle()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state_dict of the same network under the same geometry.

        Weights are found by their names, behind what a wrapper puts before them, and by their
        places only where no names were saved; the optimizer keeps its own names.

        Raises ValueError, with nothing changed, if weights, geometry, groups or shapes differ, and
        for an option that nothing reads.
        """
        self._settle()
        given = {**state_dict}
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            given = hook(self, given) or given
        self._own.load(self.param_groups, self.state, given, self.defaults["maximize"])
        self._expect()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        own = {name: getattr(self, name) for name in _PICKLED}
        return {**super().__getstate__(), **own, "state": self._own.public.copied()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_own" not in state:
            return  # state and groups alone, which the next step takes over
        self.param_groups = [{**row, "params": [*row["params"]]} for row in self.param_groups]
        self._statistics, self._model, self._projections = None, None, None
        self._overflowing = set()
        self._own = self._own.again(self.state)
