"""Certificates while training: by how much each rule's directions miss the steepest descent."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isnan

import torch
from torch import Tensor

from modula.duality import (
    Batch,
    Clip,
    Declaration,
    Sharp,
    ShortStep,
    Unit,
    derive,
)
from modula.duality.certificate import CONTRADICTION, Proof, contradiction, prove
from modula.duality.declaration.declaration import rule_of
from modula.manifolds.isospectral import Isospectral
from modula.norms.base import Norm
from modula.norms.checks import is_kind
from modula.norms.metrics.base import First
from modula.optimizer.param_groups import DeclaredWeight

logger = logging.getLogger(__name__)

# Potentials that follow the steepest direction, at a length of their own.
CERTIFIED = (Unit, Sharp, Clip, ShortStep)


class Certification:
    """The worst gap of each rule's directions, certified in steps `every`, 2 `every`, ...

        gap = 1 - <m, D> / U,   U >= <m, T> for every tangent T of norm one   (weak duality)

    m is what the direction D is dual to (the momentum, as a rule), at the weight before the step.
    Under a metric the norm is the one in the coordinates that D was found with: norm(C x).
    To certify costs one dual norm in float64 for each weight without a manifold, 60 duality maps on
    a sphere, and up to 300 projections on the norm's ball elsewhere: for spectral norms as many
    SVDs; a metric adds an inverse of each of its roots.  The steps in between cost nothing.  One
    line a certified step is logged at level INFO, for which alone the device is waited for.  A gap
    near zero may have either sign by the rounding of the state, 1e-6 in float32; one further below
    1 - norm(D) says that norm and dual contradict each other: its excess counts for it, and the
    line has the broken law.  A gap is NaN, "not finite" in the line, where m, D or the weight is.

    Not certified is what is the steepest direction in no norm: chains, which may even ascend,
    directions that scalers, momenta or decays have turned, Within, posteriors, rotations.  Nor is
    a weight of more dims than its norm measures.  The line names their rules, and why.

    every  steps from one certified step to the next
    worst  rule -> the largest gap so far, a number on the device

    Raises ValueError unless `every` is a whole number from 1 up.
    """

    def __init__(self, every: int) -> None:
        if not is_kind(every, int) or every < 1:
            raise ValueError(f"certify_every is a whole number of steps from 1 up; got {every!r}")
        self.every = every
        self.steps = 0
        self.worst: dict[str, Tensor] = {}
        self._found: dict[str, list[tuple[str, Tensor]]] = {}
        self._not_certified: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether this step is certified."""
        return self.steps % self.every == 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Inside is a step, which counts unless it ends in an error."""
        before = self.steps, {**self.worst}
        self.steps += 1
        try:
            yield
        except BaseException:
            (self.steps, self.worst), self._found, self._not_certified = before, {}, set()
            raise

    def certify(self, batch: Batch, weights: Sequence[DeclaredWeight]) -> None:
        """Certify the directions that a batch has found for its weights."""
        for place, query, direction in batch.proposed():
            name, weight, declaration = weights[place]
            rule = rule_of(declaration.setting, weight.shape)
            reason = why_not_certified(declaration, weight)
            if reason:
                self._not_certified.add(f"{rule} not certified ({reason})")
                continue
            proof = _proof(declaration, batch, place, query, direction)
            missed = torch.where(proof.excess > CONTRADICTION, proof.excess, proof.gap)
            numbers = torch.stack((missed, proof.gap, proof.excess))
            self._found.setdefault(rule, []).append((name, numbers))

    def end_step(self) -> None:
        """Keep the worst of what was found in this step, and log it."""
        if not self.is_due:
            return
        places = {}
        for rule, found in self._found.items():
            device = found[0][1].device
            listed = [numbers[0].to(device) for _, numbers in found]
            largest, places[rule] = torch.stack(listed).max(0)
            self.worst[rule] = torch.maximum(largest, self.worst.get(rule, largest).to(device))
        if logger.isEnabledFor(logging.INFO):
            parts = [self._in_words(rule, int(place)) for rule, place in places.items()]
            parts += sorted(self._not_certified)
            logger.info("step %d, worst gaps: %s", self.steps, ", ".join(parts))
        self._found, self._not_certified = {}, set()

    def _in_words(self, rule: str, place: int) -> str:
        name, numbers = self._found[rule][place]
        missed, gap, excess = numbers.tolist()
        number = "not finite" if isnan(missed) else f"{missed:.1e}"
        return f"{rule} {number} ({': '.join(filter(None, (name, contradiction(gap, excess))))})"


def why_not_certified(declaration: Declaration, weight: Tensor) -> str:
    """Why no certificate speaks of a weight's direction; "" where one does."""
    setting, decay = declaration.setting, declaration.decay
    if isinstance(setting.metric, First):
        return "a chain, no descent guarantee"
    turning = [type(each).__name__ for each in declaration.scalers if each.turns]
    if turning:
        return f"turned by {', '.join(turning)}"
    if not isinstance(setting.potential, CERTIFIED):
        return str(setting.potential)
    if isinstance(setting.manifold, Isospectral) and setting.manifold.rotations is not None:
        return "in the coordinates of rotations"
    if setting.norm.ndim != weight.ndim:
        return f"{setting.norm} of {setting.norm.ndim} dims"
    derived = derive(setting, weight.shape)
    if setting.metric is not None and derived.measured is None:
        return "the steepest in no norm"
    if setting.momentum.behind() is not None and not setting.momentum.rests:
        return "averaged"
    return "" if decay is None or decay.behind(derived) is derived else "decayed"


def _proof(
    declaration: Declaration, batch: Batch, place: int, query: Tensor, direction: Tensor
) -> Proof:
    """The proof of the direction; at norm one, whatever length the potential or a scaler gives."""
    setting, weight = declaration.setting, batch.weights[place]
    derived = derive(setting, weight.shape)
    norm: Norm = setting.norm
    if derived.measured is not None:
        held = batch.held(place, derived.measured.reads)
        norm = derived.measured.norm([each.double() for each in held])
    d = derived.scale * direction.double()
    if isinstance(setting.potential, Sharp) or declaration.scalers:
        size = norm(d)
        d = torch.where(size > 0, d / size, 0.0)
    return prove(norm, setting.manifold, weight, query, d)
