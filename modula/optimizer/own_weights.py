"""The weights of an optimizer: how they are advanced, and how what is done to them is followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modula.duality import Declaration, Program, program_of
from modula.duality.program.batch import ROUNDINGS
from modula.errors import errors_named, suggest
from modula.network.trained import check_weight
from modula.optimizer.certification import Certification
from modula.optimizer.group_options import GroupOptions, Rows, Values
from modula.optimizer.initial_projection import InitialProjection, initial_projections, project_
from modula.optimizer.network_step import WeightBatches
from modula.optimizer.network_wide import LengthRule, check_length
from modula.optimizer.param_groups import DeclaredWeight
from modula.optimizer.placement import Placement
from modula.optimizer.public_state import PublicState
from modula.optimizer.replacement import check_new, checked_rows, taken_state
from modula.optimizer.state_dict import fingerprint, loaded

State = dict[Any, Any]  # by weight, and by name: what an optimizer shows as its `state`


class Replacement(NamedTuple):
    """A weight, the one in its place, what state it starts from, and how it is projected."""

    old: DeclaredWeight
    new: DeclaredWeight
    state: dict[str, Tensor]
    projections: list[InitialProjection]


class OwnWeights:
    """Weights by group, in batches that are advanced together, and the state that is shown of them.

    What a person does between two steps, to the weights themselves and to the shown state, is
    followed by the batches or refused: see `follow`.

    length_rule, state_dtype, certification   see WeightBatches
    """

    def __init__(
        self,
        length_rule: LengthRule | None,
        state_dtype: torch.dtype | None,
        certification: Certification | None,
    ) -> None:
        self._options = (length_rule, state_dtype, certification)
        self.groups: list[list[DeclaredWeight]] = []
        self.rows = Rows(has_length=length_rule is not None)
        self.batches = WeightBatches(*self._options)
        self._look_again()

    @property
    def all(self) -> list[DeclaredWeight]:
        """All weights, in the order of the groups."""
        return [each for weights in self.groups for each in weights]

    def plan_rows(
        self, order: Mapping[str, int]
    ) -> list[tuple[str, tuple[int, ...], Declaration, int]]:
        """Name, shape, declaration and bytes of an entry of each weight, in an order of names."""
        acting = [each for index in range(len(self.groups)) for each in self._acting(index)]
        return [
            (each.name, tuple(each.weight.shape), each.declaration, each.weight.element_size())
            for each in sorted(acting, key=lambda each: order.get(each.name, len(order)))
        ]

    def _acting(self, index: int) -> Sequence[DeclaredWeight]:
        """The weights of a group under the declarations that its options make of their own."""
        return self.rows.each[index].in_force(self.groups[index])

    def find(self, weight: Tensor | str) -> DeclaredWeight:
        """The weight that is meant by a tensor, or by its full name; ValueError for another."""
        names = {each.name: each for each in self.all}
        known = names if isinstance(weight, str) else {id(each.weight): each for each in self.all}
        key = weight if isinstance(weight, str) else id(weight)
        if key not in known:
            given = repr(weight) if isinstance(weight, str) else "this tensor"
            raise ValueError(
                f"{given} is no weight of this optimizer: give one of its own, or a full name; "
                f"{suggest(weight if isinstance(weight, str) else '', names)}"
            )
        return known[key]  # type: ignore[index]

    def place_of(self, each: DeclaredWeight) -> tuple[int, int]:
        """The group of a weight, and its place there."""
        return next(
            (group, place)
            for group, weights in enumerate(self.groups)
            for place, own in enumerate(weights)
            if own is each
        )

    def derived(
        self, weights: Sequence[DeclaredWeight]
    ) -> tuple[list[Program], list[InitialProjection]]:
        """Programs for new weights, and what brings them to their manifolds.

        Raises ValueError or LookupError for a weight that none is derived for, and for a name that
        is taken: state belongs to names.
        """
        programs, projections = [], list[InitialProjection]()
        taken = {each.name for each in self.all}
        for each in weights:
            if each.name in taken:
                raise ValueError(f"{each.name} is the name of two weights: give each its own")
            taken.add(each.name)
            check_weight(each.name, each.weight)
            if not each.weight.numel():
                shape = tuple(each.weight.shape)
                raise ValueError(f"{each.name} of shape {shape} has nothing to train: leave it out")
            with errors_named(each.name):
                check_length(self._options[0], each.declaration.setting)
                programs.append(program_of(each.declaration, each.weight.shape, each.name))
                projections += initial_projections(each)
        return programs, projections

    def add(
        self,
        group: dict[str, Any],
        weights: list[DeclaredWeight],
        options: GroupOptions,
        state: State,
    ) -> None:
        """Add a group of these options."""
        group["geometry"] = [fingerprint(each.declaration) for each in weights]
        self.groups = [*self.groups, weights]
        self.rows.each.append(options)
        self._put(len(self.groups) - 1)
        self._look_again()
        self.public.take_over_(state)

    def _put(self, index: int) -> None:
        """Put a group under the programs that its options ask for."""
        weights, options = self._acting(index), self.rows.each[index]
        programs = [program_of(w.declaration, w.weight.shape, w.name) for w in weights]
        self.batches.put(index, weights, programs)
        options.put = options.acting

    def again(self, state: State) -> OwnWeights:
        """The same weights in batches of their own, which go on from this state."""
        found = OwnWeights(*self._options)
        found.groups, found.rows = self.groups, self.rows
        for index in range(len(found.groups)):
            found._put(index)
        found._look_again()
        found.public.take_over_(state)
        return found

    def values(self, param_groups: Sequence[dict[str, Any]], state: State) -> list[Values]:
        """What param_groups say, by the names of programs, to which the weights' own are put.

        Raises ValueError, with nothing changed, for what will not do.
        """
        values = self.rows.read(param_groups, self.batches.reads_statistics)
        turned = self.rows.turned()
        for index in turned:
            self._put(index)
        if turned:
            self._look_again()
            self.public.drop_unkept_(state)
            self.public.take_over_(state)
        return values

    def load(
        self,
        param_groups: Sequence[dict[str, Any]],
        state: State,
        saved: Mapping[str, Any],
        maximize: bool,
    ) -> None:
        """Go on from a saved state_dict; ValueError, with nothing changed, for what does not fit.

        maximize  of groups that do not say
        """

        def state_under(rows: Sequence[Mapping[str, Any]]) -> State:
            other = self.rows.state_in(rows, self.groups)  # of programs, which count no roundings
            counts = {w: {k: x for k, x in state[w].items() if k == ROUNDINGS} for w in other}
            return {**state, **{weight: own | counts[weight] for weight, own in other.items()}}

        options, found = loaded(self.groups, state_under, saved)
        options = self.rows.filled(options, maximize)
        for group, row in zip(param_groups, options, strict=True):
            group.update(row)
        self.values(param_groups, state)
        self.public.take_over_(found)

    def _look_again(self) -> None:
        self.public, self._placement = PublicState(self.batches.held()), Placement(self.all)

    def __getstate__(self) -> dict[str, Any]:
        return {"_options": self._options, "groups": self.groups, "rows": self.rows}

    def follow(self, state: State) -> bool:
        """Follow what was done since the last step; whether that was anything.  Never waits.

        Raises ValueError, with nothing changed, for what cannot be followed.
        """
        if self._placement.has_changed() or self.public.is_elsewhere:
            built = self.again(state)
            self.batches, self.public = built.batches, built.public
            self._placement = built._placement
            return True
        return self.public.take_over_(state)

    def replacement(
        self, old: DeclaredWeight, new: Tensor, rows: Sequence[int] | Tensor | None, state: State
    ) -> Replacement:
        """Another tensor in the place of a weight, with its state; nothing is changed yet.

        Raises ValueError for what does not fit.
        """
        check_new(old, new, self.all)
        if not self._placement.is_behind:
            self.public.take_over_(state)
        shapes = self._placement.shape_of(old.weight), tuple(new.shape)
        after, picked = old._replace(weight=new), checked_rows(old.name, *shapes, rows)
        group, place = self.place_of(old)
        acting = self._acting(group)[place].declaration
        with errors_named(old.name):
            programs = [program_of(acting, shape, old.name) for shape in shapes]
            projections = initial_projections(after)
        taken = taken_state(old.name, state[old.weight], shapes, programs, picked)
        return Replacement(old, after, taken, projections)

    def replace(self, made: Replacement, state: State) -> None:
        """Put it into its place; its batch is built by the next `follow`."""
        old, new = made.old, made.new
        self.groups = [[new if x is old else x for x in weights] for weights in self.groups]
        self._placement.replace_(old.weight, new.weight)
        del state[old.weight]
        state[new.weight] = made.state
        project_(made.projections)
