"""The one optimizer: steepest descent in whatever geometry the network declares."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modula.duality import (
    Average,
    Batch,
    Decay,
    Declaration,
    Momentum,
    Plan,
    Potential,
    Unit,
    batches,
    plan_of,
    program_of,
)
from modula.errors import about
from modula.network.declare import check_model
from modula.norms.checks import check_kind
from modula.optimizer.automatic import Automatic
from modula.optimizer.certification import Certification
from modula.optimizer.grad_scaler import scale_and_overflow_
from modula.optimizer.gradients import NonFiniteGradient, left_out
from modula.optimizer.network_wide import (
    LENGTH,
    Length,
    MeanSquare,
    Whole,
    check_length,
    length_rule,
    number_of,
)
from modula.optimizer.param_groups import (
    Group,
    Landing,
    check_loadable,
    check_not_negative,
    declarations_of,
    fingerprint,
    land_,
    landing_of,
    names_of,
    param_groups,
    refuse_beside_groups,
    say_what_is_cut,
    undone_if_it_fails,
)
from modula.optimizer.watching import Watching
from modula.statistics import Statistics

logger = logging.getLogger(__name__)

# What a copy or a pickle needs besides torch's own; the batches are derived again.
_OWN = (
    *("length_rule", "maximize", "on_nonfinite", "skipped", "state_dtype"),
    *("_last_lr", "_order", "_declarations", "_landings", "_certification"),
)


class SteepestDescent(Watching):
    r"""Steepest descent under declared norms and manifolds.

        D = argmax <m, D>  over  ||D|| <= 1, D tangent at w
        w <- retract((1 - lr budget weight_decay) w - lr budget s D)

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
    certify_every steps from one look at every direction's certificate to the next, logged and kept
                  in `certificates`: see modula.optimizer.certification for what it costs; None
                  never looks
    state_dtype   torch.bfloat16 keeps weight-shaped state in half the memory, rounded at random;
                  None keeps it in float32, or in the dtype of the weight if that is finer
    process_group the processes that average gradients, for metrics of a layer's data, see `watch`

    State exists from construction; `print(optimizer.plan)` says what is done to each weight.
    Frozen weights (requires_grad=False) are left out.

    Raises ValueError for weights without a declaration, NoRule where nothing is derived for one.
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
    ) -> None:
        check_model("SteepestDescent", model)
        for name, value, kind, default in (
            ("lr", lr, float | Automatic, 0.1),
            ("momentum", momentum, Momentum, Average(0.95)),
            ("potential", potential, Potential, Unit()),
            ("weight_decay", weight_decay, float | Decay, 0.0),
            ("groups", groups, Sequence[Group] | None, None),
            ("maximize", maximize, bool, False),
        ):
            check_kind("SteepestDescent", name, value, kind, default)
        check_not_negative("lr", 1.0 if isinstance(lr, Automatic) else lr)
        if on_nonfinite not in ("raise", "skip"):
            raise ValueError(f'on_nonfinite is "raise" or "skip"; got {on_nonfinite!r}')
        if state_dtype not in (None, torch.bfloat16):
            raise ValueError(f"state_dtype is torch.bfloat16 or None; got {state_dtype}")
        self.state_dtype = state_dtype
        self.length_rule = length_rule(lr, potential)
        self.maximize = maximize
        self.on_nonfinite = on_nonfinite
        self.skipped = 0
        self._certification = None if certify_every is None else Certification(certify_every)
        self._declarations: list[list[Declaration]] = []
        self._batches = []
        self._last_lr: Tensor | None = None
        self._seen: Statistics = {}
        self._left_out: set[int] = set()  # ids of weights that do not move in this step
        if groups is None:
            own = declarations_of(model, momentum, potential, weight_decay)
            groups = [Group(own)]
        else:
            refuse_beside_groups(momentum, potential, weight_decay)
        rate = 1.0 if isinstance(lr, Automatic) else lr
        weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._order = {name: place for place, name in enumerate(weights)}
        self._landings: list[Landing] | None = []
        super().__init__(param_groups(groups, weights, rate), {"lr": rate})
        self.watch(model, process_group)
        # Only now, when everything is derived: an error leaves every weight as it was.
        land_(self._landings)
        self._landings = None
        say_what_is_cut(self._rows())
        # OneCycleLR and CyclicLR look for "momentum" here before they cycle it in the groups.
        self.defaults.update(
            (key, self.param_groups[0][key]) for key in ("momentum",) if key in self.param_groups[0]
        )

    # --- construction -----------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add weights: {"params": [(name, weight), ...], "declarations": [Declaration, ...]}.

        Raises ValueError if a declaration is missing: nothing is guessed.
        """
        declarations = list(param_group.pop("declarations", []))
        params = param_group["params"]
        params = list(params) if not isinstance(params, Tensor) else [params]
        if len(declarations) != len(params):
            raise ValueError(
                f"a param group needs one declaration a weight; got {len(declarations)} for "
                f'{len(params)} weights: add "declarations": [Declaration(...), ...]'
            )
        super().add_param_group({**param_group, "params": params})
        try:
            for name, each in zip(names_of(self.param_groups[-1]), declarations, strict=True):
                check_kind("add_param_group", repr(name), each, Declaration)
            self._derive_group(self.param_groups[-1], param_group.keys(), declarations)
        except (ValueError, LookupError):
            self.param_groups.pop()
            raise

    def _derive_group(
        self, group: dict[str, Any], given: Collection[str], declarations: list[Declaration]
    ) -> None:
        for key in self.defaults.keys() - given - {"lr"}:
            del group[key]  # a default of the first group, which this one's programs may not have
        weights: list[Tensor] = group["params"]
        rows = list(zip(declarations, weights, names_of(group), strict=True))
        programs, landings = [], list[Landing]()
        for declaration, weight, name in rows:
            with about(name):
                check_length(self.length_rule, declaration.setting.potential)
                programs.append(program_of(declaration, weight.shape, name))
                landings += landing_of(declaration, weight, name)
        for program in programs:
            for key, value in program.live.items():
                group.setdefault(key, value)
        group["geometry"] = [fingerprint(d) for d in declarations]
        self._declarations.append(declarations)
        self._batches.append(batches(programs, weights, self.state_dtype))
        self._bind_state()
        if self._landings is None:
            land_(landings)
        else:
            self._landings += landings

    def _bind_state(self) -> None:
        """Let self.state show each weight's part of the batches' buffers."""
        for group, compiled in zip(self.param_groups, self._batches, strict=False):
            for batch, positions in compiled:
                for index, position in enumerate(positions):
                    self.state[group["params"][position]] = batch.state_of(index)

    @property
    def plan(self) -> Plan:
        """What is done to each weight, and why: print it."""
        rows = [
            (name, tuple(weight.shape), declaration, weight.element_size())
            for name, weight, declaration in self._rows()
        ]
        kept = self.state_dtype.itemsize if self.state_dtype else None
        return plan_of(sorted(rows, key=lambda row: self._order.get(row[0], len(rows))), kept)

    def _rows(self) -> Iterator[tuple[str, Tensor, Declaration]]:
        """Name, tensor and declaration of every weight."""
        for group, declarations in zip(self.param_groups, self._declarations, strict=True):
            yield from zip(names_of(group), group["params"], declarations, strict=True)

    # --- the step -----------------------------------------------------------------------------

    @torch.no_grad()
    def step(
        self, closure: Callable[[], Any] | None = None, *, loss_scale: Tensor | float | None = None
    ) -> Any:
        """One step; returns the closure's loss, if there is one.

        loss_scale  by which all losses since the last step were multiplied, those in `sampled` too;
                    .grad is not, any more.  A GradScaler says it by itself, unless its `unscale_`
                    was called before

        Raises NonFiniteGradient before anything changes, unless on_nonfinite="skip".  Raises
        ValueError where a metric needs the loss_scale and nobody says it, RuntimeError inside
        `sampled` or `perturbed`.
        """
        if self._watch is not None:
            self._watch.refuse_step()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        is_scaled = self._watch is not None and self._watch.is_scaled
        scale, overflowed = scale_and_overflow_(self, loss_scale, is_scaled)
        # What is maximized has a negative loss: of it, too, are the gradients times noise.
        self._seen = self._statistics(-scale if self.maximize else scale)
        if not overflowed and self._gradients_are_usable():
            if self._certification is not None:
                self._certification.begin_step()
            with undone_if_it_fails(self._may_fail()):
                self._step_with(self._wholes())
            if self._certification is not None:
                self._certification.end_step()
        self._expect()
        return loss

    @property
    def last_lr(self) -> float:
        """Length of the last step in the network's norm; reading it waits for the device."""
        return float("nan") if self._last_lr is None else abs(float(self._last_lr))

    @property
    def certificates(self) -> dict[str, float]:
        """The worst gap of each rule so far; reading it waits for the device."""
        worst = {} if self._certification is None else self._certification.worst
        return {rule: float(gap) for rule, gap in worst.items()}

    def _wholes(self) -> list[Whole]:
        """The numbers of the whole network that its weights wait for; [] where they need not."""
        found: list[Whole] = [] if self.length_rule is None else [Length(self.length_rule)]
        if any(batch.asks_mean_square for _, batch, _ in self._each_batch()):
            found.append(MeanSquare())
        return found

    def _step_with(self, wholes: Sequence[Whole]) -> None:
        """Propose and move: batch by batch, unless a number of all of them comes in between."""
        numbers = self._propose_all(wholes) if wholes else {}
        for index, batch, positions in self._each_batch():
            if not wholes:
                self._propose(index, batch, positions)
            group, device = self.param_groups[index], batch.weights[0].device
            here = {name: number.to(device) for name, number in numbers.items()}
            batch.update(_scalar(here.pop(LENGTH, 1.0) * group["lr"], batch), group, here)
        length = numbers.get(LENGTH, 1.0) * self.param_groups[0]["lr"]
        self._last_lr = torch.as_tensor(length, dtype=torch.float64)

    def _may_fail(self) -> list[Tensor]:
        """What to keep a copy of: weights and state, where some manifold may have no next point."""
        if not any(d.setting.manifold.can_fail for _, _, d in self._rows()):
            return []
        weights = [weight for group in self.param_groups for weight in group["params"]]
        return [*weights, *(x for weight in weights for x in self.state[weight].values())]

    def _propose_all(self, wholes: Sequence[Whole]) -> dict[str, Tensor]:
        """Find every weight's direction, and the numbers of the whole network, by name."""
        batches, parts = list[Batch](), {whole.name: list[Tensor]() for whole in wholes}
        for index, batch, positions in self._each_batch():
            self._propose(index, batch, positions)
            batches.append(batch)
            for whole in wholes:
                parts[whole.name].append(whole.part(batch, self.param_groups[index]))
        return {whole.name: number_of(whole, batches, parts[whole.name]) for whole in wholes}

    def _propose(self, index: int, batch: Batch, positions: list[int]) -> None:
        group, names = self.param_groups[index], self._names(index, positions)
        seen = [self._seen.get(name, {}) for name in names] if self._seen else []
        weights = [group["params"][i] for i in positions]
        gradients = [None if id(w) in self._left_out else w.grad for w in weights]
        if self.maximize:  # a region lets a weight go in one direction and not in the other
            gradients = [None if g is None else -g for g in gradients]
        batch.propose(gradients, group, seen, self._look_at(index, batch, positions))

    def _look_at(self, index: int, batch: Batch, positions: list[int]) -> Callable[[], None] | None:
        """What certifies the directions of a batch, in the steps in which that is due."""
        if self._certification is None or not self._certification.is_due:
            return None
        return partial(
            self._certification.look,
            batch,
            [self._declarations[index][i] for i in positions],
            self._names(index, positions),
        )

    def _gradients_are_usable(self) -> bool:
        """Whether there is a step, and which weights have no part in it."""
        try:
            rows = [row for row in self._rows() if row[1].grad is not None]
            self._left_out = left_out(rows, before=self._left_out)
        except NonFiniteGradient:
            if self.on_nonfinite == "raise":
                raise
            self.skipped += 1
            return False
        return True

    # --- checkpoints --------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state_dict of the same network under the same geometry.

        Raises ValueError, with nothing changed, if weights, geometry or shapes differ.
        """
        check_loadable(self.param_groups, self.state, state_dict)
        saved = state_dict["state"]
        super().load_state_dict({**state_dict, "state": {}})
        self._bind_state()
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for index, weight in enumerate(weights):
            for name, value in self.state[weight].items():
                value.copy_(saved[index][name])
        self._expect()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in _OWN}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_declarations" not in state:
            return  # load_state_dict comes this way too, with the batches in place
        saved = {weight: dict(own) for weight, own in self.state.items()}
        self._batches, self._watch, self._seen, self._left_out = [], None, {}, set()
        for group, declarations in zip(self.param_groups, self._declarations, strict=True):
            rows = zip(declarations, group["params"], names_of(group), strict=True)
            programs = [program_of(d, w.shape, n) for d, w, n in rows]
            self._batches.append(batches(programs, group["params"], self.state_dtype))
        self._bind_state()
        for weight, own in saved.items():
            for name, value in own.items():
                self.state[weight][name].copy_(value)


def _scalar(lr: Any, batch: Batch) -> Tensor:
    weight = batch.weights[0]
    # float64, so that a rate is the same number for weights of every precision.
    dtype = torch.float32 if weight.device.type == "mps" else torch.float64
    if isinstance(lr, Tensor):
        return lr.to(weight.device)
    return torch.full((), lr, dtype=dtype, device=weight.device)
