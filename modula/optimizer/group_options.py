"""Options in param_groups: which ones there are, whether their values will do, and what they say.

Programs know their options by names of their own: "momentum", "beta" (of the average of squares),
"eps", "weight_decay".  A row of param_groups may show one under another key, or two as a pair.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import GenericAlias
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modula.duality import Program, program_of
from modula.duality.declaration.decay import Scheduled, as_decay
from modula.errors import suggest
from modula.norms.checks import check_beta, check_kind, check_not_negative, shown
from modula.optimizer.outliers import USUAL, Gradients
from modula.optimizer.param_groups import DeclaredWeight, Names

logger = logging.getLogger(__name__)

# What stands in a row besides options: torch's own, the fingerprints, and notes of schedulers.
NOTES = frozenset(
    (
        *("params", "param_names", "geometry", "initial_lr", "max_lr", "min_lr", "swa_lr"),
        *("max_momentum", "base_momentum", USUAL),
    )
)
NOT_NEGATIVE = ("weight_decay", "eps")  # other options are coefficients of averages
MISSING = object()

Values = Mapping[str, Any]
Acting = tuple[bool, ...]  # of RESTING, which are above zero
RESTING = ("weight_decay", "momentum")  # options that may have no line while they are zero


class Decaying(NamedTuple):
    """The weight of a row that decays most: by lr times rate times share."""

    name: str
    share: float


class GroupOptions:
    """The options of one row of param_groups, which are checked whenever one has changed.

    index     of the row
    declared  values by the names of programs
    names     keys of the row that differ from the names of programs, and which of those they hold
    decaying  the weight that decays most, if any may
    """

    def __init__(
        self,
        index: int,
        declared: Mapping[str, float],
        names: Names,
        decaying: Decaying | None = None,
    ) -> None:
        fitting = {key: own for key, own in names.items() if {*own} <= declared.keys()}
        taken = {name for own in fitting.values() for name in own}
        self.where = f"param_groups[{index}]"
        self.declared = dict(declared)
        self.names: Names = fitting | {name: (name,) for name in declared if name not in taken}
        kinds = {
            key: GenericAlias(tuple, (float,) * len(own)) if len(own) > 1 else float
            for key, own in self.names.items()
        }
        self._kinds: dict[str, Any] = {"lr": float, **kinds, "maximize": bool}
        self.decaying = decaying
        self.put: Acting = (False, False)  # as which the weights are advanced
        self._values: Values = {}
        self._seen: dict[str, object] = {}

    def fill_(self, group: dict[str, Any], maximize: bool) -> None:
        """Write into the row what it does not say yet, as it was declared."""
        for key in self.names:
            group.setdefault(key, self.declared_at(key))
        group.setdefault("maximize", maximize)

    def read(self, group: dict[str, Any]) -> Values:
        """Values by the names of programs, "lr" and "maximize".

        Raises ValueError for a key that nothing reads, and for a value that will not do.
        """
        seen, row = self._seen, {k: v for k, v in group.items() if k not in NOTES}
        changed = [key for key, value in row.items() if value is not seen.get(key, MISSING)]
        if len(row) != len(seen) or any(key not in self._kinds for key in changed):
            self._values = self._checked(group)
        elif changed or isinstance(seen["lr"], Tensor):  # which may have changed in place
            # A schedule changes a number or two in every step: the others are known to do.
            new = {key: row[key] for key in (*changed, "lr")}
            pairs = self._as_pairs(new)
            self._values = {**self._values} | self._all_named(new | pairs)
            group.update(pairs)
        else:
            return self._values
        self._seen = {key: value for key, value in group.items() if key not in NOTES}
        return self._values

    @property
    def acting(self) -> Acting:
        """Which options, of those that cost nothing while they are zero, are not."""
        return _acting(self._values)

    def in_force(
        self, weights: Sequence[DeclaredWeight], values: Values | None = None
    ) -> Sequence[DeclaredWeight]:
        """The weights as declared, but for options that have left or reached zero since."""
        values = self._values if values is None else values
        if _acting(values) == _acting(self.declared):
            return weights
        return [each._replace(declaration=each.declaration.at(values)) for each in weights]

    def filled(self, group: Mapping[str, Any], maximize: bool) -> dict[str, Any]:
        """A row that was saved, with what it does not say; ValueError if it will not do."""
        row = {**group}
        self.fill_(row, maximize)
        self._checked(row)
        return row

    def state_in(
        self, group: Mapping[str, Any], weights: Sequence[DeclaredWeight]
    ) -> dict[Tensor, dict[str, Tensor]]:
        """What state these weights have under a saved row, in shapes, where it is another."""
        row = {**group}
        self.fill_(row, maximize=False)
        try:
            values = self._checked(row)
        except ValueError:  # told once all else is known to fit
            return {}
        if _acting(values) == self.put:
            return {}
        return {
            weight: _state_of(program_of(declaration, weight.shape, name), weight)
            for name, weight, declaration in self.in_force(weights, values)
        }

    def declared_at(self, key: str) -> float | tuple[float, ...]:
        """What was declared to stand under this key."""
        numbers = tuple([self.declared[name] for name in self.names[key]])
        return numbers if len(numbers) > 1 else numbers[0]

    def _checked(self, group: dict[str, Any]) -> Values:
        row = {key: value for key, value in group.items() if key not in NOTES}
        changes = self._as_pairs(row)
        known = {key: value for key, value in (row | changes).items() if key in self._kinds}
        for key, value in row.items():
            is_known = key in known or isinstance(value, str) or (changes and key == "momentum")
            if not is_known:
                self._refuse(key, value)
        for key in self._kinds:
            if key not in row:
                raise ValueError(f"{self.where} has no {key!r} any more, which every step reads")
        values = self._all_named(known)
        if "momentum" not in self.names and changes:
            group.pop("momentum", None)
        group.update(changes)
        return values

    def _as_pairs(self, row: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Pairs that the row shall hold: lists as tuples, and "momentum" as the first of betas.

        Schedulers of torch write "momentum" into all rows where the first one has it.
        """
        found = {k: tuple(x) for k, x in row.items() if k in self.names and isinstance(x, list)}
        if "momentum" in row and "momentum" not in self.names:
            for key, own in self.names.items():
                pair = found.get(key, row.get(key))
                if own[0] == "momentum" and isinstance(pair, tuple):
                    found[key] = (row["momentum"], *pair[1:])
        return found

    def _refuse(self, key: str, value: object) -> None:
        raise ValueError(
            f"{self.where}[{key!r}] = {shown(value)} acts on nothing: "
            f"{suggest(key, ('lr', *self.names, 'maximize'))}; what else a weight's update has is "
            "fixed when the optimizer is built, and only texts are taken as labels"
        )

    def _all_named(self, row: Values) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in row.items():
            values |= self._named(key, value)
        return values

    def _named(self, key: str, value: object) -> Values:
        """The values of one key, by the names of programs."""
        if key == "lr":
            return {key: self._rate(value)}
        if key == "maximize":
            check_kind(self.where, repr(key), value, bool, False)
            return {key: value}
        own, declared = self.names[key], self.declared_at(key)
        if isinstance(value, Tensor):
            raise ValueError(
                f"{self.where} needs a number of the host for {key!r}, such as {declared}, which "
                f"no step waits for; got {shown(value)}"
            )
        check_kind(self.where, repr(key), value, self._kinds[key], declared)
        numbers: Any = value if len(own) > 1 else (value,)
        for name, number in zip(own, numbers, strict=True):
            self._check_range(key, name, number)
        return {name: float(number) for name, number in zip(own, numbers, strict=True)}

    def _check_range(self, key: str, name: str, number: float) -> None:
        if name.removeprefix("graft_") in NOT_NEGATIVE:
            check_not_negative(f"{self.where}[{key!r}]", number)
        elif number != self.declared[name]:  # a coefficient of 1 may be declared: it adds up
            check_beta(f"{self.where}[{key!r}]", number)

    def _rate(self, lr: Any) -> Any:
        if isinstance(lr, Tensor) and lr.device.type != "cpu":
            return lr  # to look at it would wait for the device
        check_kind(self.where, "'lr'", lr, float, 0.1)
        check_not_negative(f"{self.where}['lr']", lr)
        return lr


class Rows:
    """The options of all rows of param_groups."""

    def __init__(self, has_length: bool) -> None:
        self.each: list[GroupOptions] = []
        self._has_warned = has_length  # then lr is not all of it, and the device knows the rest

    def of(
        self,
        weights: Sequence[DeclaredWeight],
        programs: Sequence[Program],
        group: dict[str, Any],
    ) -> GroupOptions:
        """The options of one more row, which gets what it does not say.

        Raises ValueError where weights differ in an option, and for what will not do.
        """
        before = {key: own for row in self.each for key, own in row.names.items()}
        declared, names = _declared(weights, programs), group.pop("names", before)
        found = GroupOptions(len(self.each), declared, names, _most_decaying(weights))
        found.fill_(group, maximize=False)
        found.read(group)
        return found

    def cycled(self) -> dict[str, Any]:
        """The option that OneCycleLR and CyclicLR look for among the defaults, if all rows have it.

        They then write it into all rows: where one has no betas, "momentum".
        """
        if all("betas" in row.names for row in self.each):
            return {"betas": self.each[0].declared_at("betas")}
        if all("momentum" in row.declared for row in self.each):
            return {"momentum": self.each[0].declared["momentum"]}
        return {}

    def filled(self, rows: Sequence[Mapping[str, Any]], maximize: bool) -> list[dict[str, Any]]:
        """Saved rows, with what they do not say; ValueError for what will not do."""
        return [row.filled(group, maximize) for row, group in zip(self.each, rows, strict=True)]

    def turned(self) -> list[int]:
        """Rows in which an option has left or reached zero since their weights were put."""
        return [index for index, row in enumerate(self.each) if row.put != row.acting]

    def state_in(
        self, rows: Sequence[Mapping[str, Any]], weights: Sequence[Sequence[DeclaredWeight]]
    ) -> dict[Tensor, dict[str, Tensor]]:
        """What state weights have under saved rows, in shapes, where it is another than now."""
        found: dict[Tensor, dict[str, Tensor]] = {}
        for options, row, own in zip(self.each, rows, weights, strict=True):
            found |= options.state_in(row, own)
        return found

    def read(
        self, param_groups: Sequence[dict[str, Any]], reads_statistics: bool = False
    ) -> list[Values]:
        """The values of each row, by the names of programs.

        reads_statistics  whether metrics read of the loss what has its sign

        Raises ValueError for what will not do.
        """
        values = [row.read(group) for row, group in zip(self.each, param_groups, strict=True)]
        if reads_statistics and len({own["maximize"] for own in values}) > 1:
            raise ValueError(
                "param_groups differ in 'maximize', and a metric here reads statistics of one "
                "loss for all: give all rows the same"
            )
        if not self._has_warned:
            self._warn_of_flips(values)
        return values

    def _warn_of_flips(self, values: Sequence[Values]) -> None:
        """Say once if a weight decays by more than itself in one step."""
        for row, own in zip(self.each, values, strict=True):
            lr, rate = own["lr"], own.get("weight_decay", 0.0)
            if row.decaying is None or not rate or isinstance(lr, Tensor):
                continue
            name, share = row.decaying
            if lr * rate * share > 1:
                logger.warning(
                    "%s changes its sign as it decays: lr * budget * weight_decay is "
                    "%.4g * %.4g * %.4g = %.4g in %s, more than all of the weight",
                    *(name, lr, share, rate, lr * share * rate, row.where),
                )
                self._has_warned = True
                return


def _state_of(program: Program, weight: Tensor) -> dict[str, Tensor]:
    """The state that a program keeps of a weight: shapes without entries."""
    return {
        name: torch.empty(weight.shape if slot.shape is None else slot.shape, device="meta")
        for name, slot in program.slots
    }


def _acting(values: Values) -> Acting:
    return tuple([values.get(name, 0.0) > 0 for name in RESTING])


def decaying_alike(weights: Sequence[DeclaredWeight]) -> list[DeclaredWeight]:
    """The weights of a row: those without decay beside others that decay never do."""
    if not any(each.declaration.decay for each in weights):
        return [*weights]
    return [
        each
        if each.declaration.decay
        else each._replace(declaration=replace(each.declaration, weight_decay=None))
        for each in weights
    ]


def downhill(
    gradients: Gradients, weights: Sequence[Sequence[DeclaredWeight]], options: Sequence[Values]
) -> Gradients:
    """The gradients, negated in rows that maximize; not the steps, which a region may not allow."""
    rows = [group for group, own in zip(weights, options, strict=True) if own["maximize"]]
    negated = {id(each.weight) for group in rows for each in group}
    if not negated:
        return gradients
    return {weight: -g if weight in negated else g for weight, g in gradients.items()}


def _declared(weights: Sequence[DeclaredWeight], programs: Sequence[Program]) -> dict[str, float]:
    """Values by the names of programs; ValueError where two weights of the row differ in one."""
    found: dict[str, float] = {}
    first: dict[str, str] = {}
    for each, program in zip(weights, programs, strict=True):
        for name, value in (each.declaration.resting | program.live).items():
            first.setdefault(name, each.name)
            if found.setdefault(name, value) != value:
                raise ValueError(
                    f"weights of one group share their options: {first[name]} declares {name} "
                    f"{found[name]}, {each.name} {value}: give them Groups of their own"
                )
    return found


def _most_decaying(weights: Sequence[DeclaredWeight]) -> Decaying | None:
    """The weight that lr times rate takes most of, if any is shrunk by them."""
    found = [Decaying(each.name, share) for each in weights if (share := _share(each)) is not None]
    return max(found, key=lambda each: each.share, default=None)


def _share(each: DeclaredWeight) -> float | None:
    """What lr times rate is multiplied by where a weight is shrunk; None where it is not."""
    declaration = each.declaration
    decay = as_decay(declaration.weight_decay)
    if decay is None or isinstance(decay, Scheduled):  # whose share is at most one
        return None
    shrinking = decay.shrink("direction", declaration.budget, each.weight.shape)
    return None if shrinking is None else float(shrinking.values()["scale"])
