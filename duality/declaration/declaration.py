"""The declaration of one weight, and the program derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modula.duality.declaration.decay import Decay, acting, as_decay
from modula.duality.declaration.direction import proposed
from modula.duality.declaration.scalers.base import Scaler
from modula.duality.declaration.scalers.graft import Graft
from modula.duality.program.line import PerWeight, Role, line, renamed
from modula.duality.program.names import POINT
from modula.duality.program.program import Program, counting_steps
from modula.duality.rules.rotations import chart_shape, rotating
from modula.duality.rules.silence import active_line
from modula.duality.setting.derive import Derived, Setting, rule_name
from modula.kernels.elementwise import update
from modula.kernels.op import Shape
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.isospectral import Isospectral
from modula.manifolds.rotations import Rotations
from modula.norms.checks import check_fields
from modula.norms.vector import L2


@dataclass(frozen=True)
class Declaration:
    """Everything that decides the update of one weight, its name and shape apart.

    setting       norm, manifold, metric, potential, momentum
    role          what the weight is for, as printed
    budget        norm of one update at lr = 1
    weight_decay  rate of (1 - lr budget rate) w before the step; 1/rate is the radius of the
                  norm ball that the weight then stays in; a Decay puts it elsewhere; 0 leaves it
                  to param_groups, which may raise it later; None never decays
    scalers       what happens to the direction before the step, in this order
    """

    setting: Setting
    role: str = "hidden"
    budget: float = 1.0
    weight_decay: float | Decay | None = 0.0
    scalers: tuple[Scaler, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        decay = as_decay(self.weight_decay)  # refuses what is no rate
        if decay is not None:
            decay.check(self.setting)
        kinds = [type(scaler).__name__ for scaler in self.scalers]
        if len({*kinds}) < len(kinds):
            raise ValueError(f"a weight takes one scaler of a kind; got {', '.join(kinds)}")

    @property
    def decay(self) -> Decay | None:
        """The weight decay, None where nothing decays."""
        return acting(self.weight_decay)

    @property
    def resting(self) -> dict[str, float]:
        """The options of param_groups that have no line while they are zero, as declared."""
        decay, momentum = as_decay(self.weight_decay), self.setting.momentum
        rates = {} if decay is None else {"weight_decay": decay.rate}
        may_wake = momentum.rests and not momentum.at(0.5).rests
        return rates | ({"momentum": 0.0} if may_wake else {})

    def at(self, options: Mapping[str, Any]) -> Declaration:
        """The same with the weight decay and the momentum that stand in param_groups.

        options  by the names of live options
        """
        setting, decay = self.setting, as_decay(self.weight_decay)
        if "momentum" in options:
            setting = replace(setting, momentum=setting.momentum.at(options["momentum"]))
        if decay is not None:
            decay = replace(decay, rate=options["weight_decay"])
        return replace(self, setting=setting, weight_decay=decay)

    @property
    def has_metric(self) -> bool:
        """Whether squares of the gradient are averaged."""
        grafts = [each.setting for each in self.scalers if isinstance(each, Graft)]
        return any(setting.metric is not None for setting in (self.setting, *grafts))


def program_of(declaration: Declaration, shape: Shape, name: str = "weight") -> Program:
    """The whole update of one weight: momentum, direction, scalers, decay, step, retraction."""
    setting, decay = declaration.setting, declaration.decay
    rotations = _rotations(setting)
    if rotations is not None:
        setting.manifold.check_shape(tuple(shape))
        free = replace(declaration, setting=replace(setting, manifold=Euclidean()))
        inner = program_of(free, chart_shape(rotations, shape), name)
        return rotating(inner, rotations, shape)
    derived = proposed(setting, shape, name, decay)
    if any(scaler.normalises for scaler in declaration.scalers):
        derived = _without_silence(derived, setting, shape)
    for scaler in declaration.scalers:
        derived = scaler.applied(derived, setting, shape)
    derived = _with_decayed_gradient(derived, decay)
    shrink = decay and decay.shrink(derived.direction, declaration.budget, shape)
    lines, slots = counting_steps(derived.lines, derived.slots)
    step = line(
        "weight",
        update.step,
        *("weight", derived.direction, "lr"),
        scale=PerWeight(float(declaration.budget * derived.scale)),
    ).in_role(Role.STEP)
    return Program(
        proposal=lines,
        update=(
            *((line(POINT, update.copy, "weight"),) if _looks_back(derived) else ()),
            *((shrink,) if shrink else ()),
            step,
            *derived.after,
        ),
        direction=derived.direction,
        query=derived.query,
        slots=slots,
        draw=derived.draw,
    )


def _without_silence(derived: Derived, setting: Setting, shape: Shape) -> Derived:
    """The derivation, whose direction is zero where the gradient is, if it is not already."""
    if setting.potential.normalises:
        return derived
    still = active_line(L2(len(shape)), derived.direction)
    return replace(derived, lines=(*derived.lines, still), direction=still.result)


def _looks_back(derived: Derived) -> bool:
    return any(POINT in each.reads for each in derived.after)


def _with_decayed_gradient(derived: Derived, decay: Decay | None) -> Derived:
    """The derivation from a gradient that holds the decay if that is coupled."""
    first = decay and decay.into_gradient()
    if not first:
        return derived
    names = {"gradient": first.result}
    return replace(
        derived,
        lines=(first, *renamed(derived.lines, names)),
        direction=names.get(derived.direction, derived.direction),
        query=names.get(derived.query, derived.query),
    )


def _rotations(setting: Setting) -> Rotations | None:
    """How the weight is rotated, if that is how it moves."""
    return setting.manifold.rotations if isinstance(setting.manifold, Isospectral) else None


def rule_of(setting: Setting, shape: Shape) -> str:
    """The name of the rule that derives a weight's direction, as the plan prints it."""
    if _rotations(setting) is None:
        return rule_name(setting, shape)
    return f"{rule_name(replace(setting, manifold=Euclidean()), shape)}, rotating"
