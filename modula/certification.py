"""Certificates while training: how much of the steepest descent each rule's directions miss."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from modula.duality import (
    Batch,
    Clip,
    Declaration,
    Setting,
    Sharp,
    ShortStep,
    Unit,
    derive,
    gap_of,
)
from modula.duality.rules import rule_name

logger = logging.getLogger(__name__)

# Potentials that follow the steepest direction, at a length of their own.
CERTIFIED = (Unit, Sharp, Clip, ShortStep)


class Certification:
    """The worst gap of each rule, looked at in steps `every`, 2 `every`, ...

        gap = 1 - <m, D> / U,   U >= <m, T> for every tangent T of norm one   (weak duality)

    m is what the direction D is dual to (the momentum, as a rule), at the weight before the step.
    A look costs one dual norm in float64 for each weight without a manifold, 60 duality maps on
    a sphere, and up to 300 projections on the norm's ball elsewhere: for spectral norms as many
    SVDs.  The steps in between cost nothing.  One line a look is logged at level INFO, and only
    for it is the device waited for.  A weight under a metric is not certified, nor is one whose
    norm has fewer dims than it: the line names their rules.

    every  steps from one look to the next
    worst  rule -> the largest gap so far, a number on the device

    Raises ValueError unless `every` is a whole number from 1 up.
    """

    def __init__(self, every: int) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"certify_every is a whole number of steps from 1 up; got {every!r}")
        self.every = every
        self.steps = 0
        self.worst: dict[str, Tensor] = {}
        self._found: dict[str, list[tuple[str, Tensor]]] = {}
        self._passed_over: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether this step is looked at."""
        return self.steps % self.every == 0

    def begin_step(self) -> None:
        """Count a step."""
        self.steps += 1

    def look(self, batch: Batch, declarations: Sequence[Declaration], names: Sequence[str]) -> None:
        """Certify what a batch proposes; declarations and names are those of its weights."""
        for place, query, direction in batch.proposed():
            setting, weight = declarations[place].setting, batch.weights[place]
            rule = rule_name(setting)
            # A scaler turns a direction on purpose: it is no steepest one any more.
            if is_certified(setting, weight) and not declarations[place].scalers:
                gap = _gap(setting, weight, query, direction)
                self._found.setdefault(rule, []).append((names[place], gap))
            else:
                self._passed_over.add(rule)

    def end_step(self) -> None:
        """Keep the worst of what was found in this step, and log it."""
        if not self.is_due:
            return
        places = {}
        for rule, found in self._found.items():
            device = found[0][1].device
            largest, places[rule] = torch.stack([gap.to(device) for _, gap in found]).max(0)
            self.worst[rule] = torch.maximum(largest, self.worst.get(rule, largest).to(device))
        if logger.isEnabledFor(logging.INFO):
            parts = [self._in_words(rule, int(place)) for rule, place in places.items()]
            parts += [f"{rule} not certified" for rule in sorted(self._passed_over)]
            logger.info("step %d, worst gaps: %s", self.steps, ", ".join(parts))
        self._found, self._passed_over = {}, set()

    def _in_words(self, rule: str, place: int) -> str:
        name, gap = self._found[rule][place]
        return f"{rule} {float(gap):.1e} ({name})"


def is_certified(setting: Setting, weight: Tensor) -> bool:
    """Whether a weight's direction is of the kind that a certificate speaks of."""
    steepest = setting.metric is None and isinstance(setting.potential, CERTIFIED)
    return steepest and setting.norm.ndim == weight.ndim


def _gap(setting: Setting, weight: Tensor, query: Tensor, direction: Tensor) -> Tensor:
    """The gap of the direction; at norm one, whatever length the potential gives it."""
    d = derive(setting, weight.shape).scale * direction.double()
    if isinstance(setting.potential, Sharp):
        size = setting.norm(d)
        d = torch.where(size > 0, d / size, 0.0)
    return gap_of(setting.norm, setting.manifold, weight, query, d)
