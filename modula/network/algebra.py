"""Modules with mass and sensitivity, and their algebra: @, tuples, +, scalar times, **.

    after @ before              mass adds    sensitivities multiply
    a @ (b, c),  (b, c) @ a     mass adds    sensitivities add (a tuple's norm is the sum of norms)
    a + b                       Add @ (a, b)
    factor * a                  Scale(factor) @ a
    a ** depth                  depth fresh copies, composed

Source: Large et al. 2024, arXiv:2405.14813; Bernstein and Newhouse 2024, arXiv:2410.21265.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from math import inf, prod
from operator import add
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from modula.network.geometry import Geometry


class Module(nn.Module, ABC):
    """A network that knows its mass and its sensitivity.

    Well-normed: at weights of norm <= 1 and inputs of norm <= 1,
        ||f(w + dw, x) - f(w, x)|| <= ||dw||,   ||f(w, x + dx) - f(w, x)|| <= sensitivity ||dx||
    where ||dw|| = max_l ||dw_l|| / t_l is the modular norm, and t = `budgets()`.
    """

    @property
    @abstractmethod
    def mass(self) -> float:
        """Share of the learning that it takes inside a larger network, >= 0."""

    @property
    @abstractmethod
    def sensitivity(self) -> float:
        """Lipschitz constant in the input, > 0."""

    @abstractmethod
    def allot(self, budget: float) -> Iterator[tuple[Atom, float]]:
        """Every atom below with its share of `budget`, the allowed change of the output."""

    def budgets(self) -> dict[str, float]:
        """How far each weight moves in a step of modular norm one, under the weight's full name.

            t_l = (mass_l / mass) / product of the sensitivities of all that comes after atom l

        Source: the recursion of Large et al. 2024, arXiv:2405.14813, flattened.
        """
        owners = {name: atom for name, atom in self.named_modules() if isinstance(atom, Atom)}
        parts = {id(atom): part for atom, part in self.allot(1.0)}
        _refuse_strangers(self, owners, parts)
        _refuse_tied(owners)
        return {f"{name}.weight".lstrip("."): parts[id(atom)] for name, atom in owners.items()}

    def tare(self, mass: float) -> Self:
        """Rescale all masses below so that their sum is `mass`; returns the module itself."""
        if not 0 <= mass < inf:
            raise ValueError(f"a mass is a finite number >= 0, got {mass}")
        total = self.mass
        if total == 0:
            raise ValueError(
                f"{type(self).__name__} has mass 0, which no factor turns into {mass}: tare a "
                "module that holds at least one weight of positive mass"
            )
        for module in self.modules():
            if isinstance(module, Atom):
                module.weigh_(module.mass * (mass / total))
        return self

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw every weight anew from its atom's initial distribution."""
        for module in self.modules():
            if isinstance(module, Atom):
                module.weight.copy_(module.fresh())

    def __matmul__(self, before: Module | tuple[Any, ...]) -> Compose:
        return Compose(*_chain(before), *_chain(self))

    def __rmatmul__(self, after: tuple[Any, ...]) -> Compose:
        return Compose(*_chain(self), *_chain(after))

    def __add__(self, other: Module | tuple[Any, ...]) -> Compose:
        return Add() @ (self, other)

    def __rmul__(self, factor: float) -> Compose:
        return Scale(factor) @ self

    def __pow__(self, depth: int) -> Module:
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 0:
            raise ValueError(f"module ** {depth!r}: the depth must be an integer >= 0")
        copies = [deepcopy(self) for _ in range(depth)]
        for copy in copies:
            copy.reset_parameters()
        return Compose(*copies) if copies else Identity()


class Atom(Module, ABC):
    """One weight, the geometry it is measured in, and a forward that is linear or affine in it."""

    weight: nn.Parameter

    def __init__(
        self,
        shape: tuple[int, ...],
        geometry: Geometry,
        *,
        mass: float = 1.0,
        sensitivity: float = 1.0,
    ) -> None:
        super().__init__()
        geometry.manifold.check_shape(shape)
        self.geometry = {"weight": geometry}
        self._mass, self._sensitivity = mass, sensitivity
        self.weight = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    @abstractmethod
    def fresh(self) -> Tensor:
        """A new draw of the initial weight."""

    @property
    def mass(self) -> float:
        return self._mass

    @property
    def sensitivity(self) -> float:
        return self._sensitivity

    def weigh_(self, mass: float) -> None:
        """Set the mass; `tare` does this for whole networks."""
        self._mass = mass

    def allot(self, budget: float) -> Iterator[tuple[Atom, float]]:
        yield self, (budget if self._mass > 0 else 0.0)


class Bond(Module, ABC):
    """A map without weights: its mass is 0."""

    def __init__(self, *, sensitivity: float = 1.0) -> None:
        super().__init__()
        self._sensitivity = sensitivity

    @property
    def mass(self) -> float:
        return 0.0

    @property
    def sensitivity(self) -> float:
        return self._sensitivity

    def allot(self, budget: float) -> Iterator[tuple[Atom, float]]:
        return iter(())


class Assembly(Module, ABC):
    """Several modules, named "0", "1", ...: its mass is the sum of theirs."""

    def __init__(self, *parts: Module) -> None:
        super().__init__()
        if not parts:
            raise ValueError(f"{type(self).__name__} needs at least one module")
        _refuse_twice(parts)
        for number, part in enumerate(parts):
            self.add_module(str(number), part)

    @property
    def parts(self) -> tuple[Module, ...]:
        """The modules it is made of, in the order of their names."""
        return cast(tuple[Module, ...], tuple(self._modules.values()))

    @property
    def mass(self) -> float:
        return sum(part.mass for part in self.parts)

    def portions(self, budget: float) -> list[tuple[Module, float]]:
        """The parts, each with its share of a budget, in proportion to its mass."""
        mass = self.mass
        return [(part, budget * (part.mass / mass) if mass > 0 else 0.0) for part in self.parts]


class Compose(Assembly):
    """part_n(... part_1(x)): the parts stand in order of application.

    sensitivity = product of sensitivities
    """

    @property
    def sensitivity(self) -> float:
        return prod(part.sensitivity for part in self.parts)

    def allot(self, budget: float) -> Iterator[tuple[Atom, float]]:
        # From the last part to the first: what comes after a part multiplies its changes.
        after = 1.0
        for part, portion in reversed(self.portions(budget)):
            yield from part.allot(portion / after)
            after *= part.sensitivity

    def forward(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x


class Parallel(Assembly):
    """(part_1(x), ..., part_n(x)): what a tuple of modules becomes; its norm is the sum of norms.

    sensitivity = sum of sensitivities
    """

    @property
    def sensitivity(self) -> float:
        return sum(part.sensitivity for part in self.parts)

    def allot(self, budget: float) -> Iterator[tuple[Atom, float]]:
        for part, portion in self.portions(budget):
            yield from part.allot(portion)

    def forward(self, x: Any) -> tuple[Any, ...]:
        return tuple(part(x) for part in self.parts)


class Identity(Bond):
    """x"""

    def forward(self, x: Any) -> Any:
        return x


class Scale(Bond):
    """factor * x, of sensitivity |factor|: a sign turns nothing around but the output."""

    def __init__(self, factor: float) -> None:
        if not isinstance(factor, int | float) or isinstance(factor, bool):
            raise TypeError(f"Scale needs a real number, got {factor!r}")
        if factor == 0:
            raise ValueError("Scale(0) cuts the network in two: nothing before it can learn")
        if not abs(factor) < inf:
            raise ValueError(f"Scale needs a finite number, got {factor}")
        super().__init__(sensitivity=abs(float(factor)))
        self.factor: float = float(factor)

    def extra_repr(self) -> str:
        return f"{self.factor:g}"

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Add(Bond):
    """x_1 + ... + x_n of a tuple: sensitivity 1, since a tuple's norm is the sum of norms."""

    def forward(self, xs: tuple[Tensor, ...]) -> Tensor:
        return reduce(add, xs)


def budgets_of(model: nn.Module) -> dict[str, float]:
    """Modular budgets of a normed network; empty for a plain torch model."""
    return model.budgets() if isinstance(model, Module) else {}


def check_sizes(name: str, **sizes: int) -> None:
    """Raise ValueError unless every size is an integer of at least one."""
    for what, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} needs {what} >= 1, an integer; got {what}={size!r}")


def _module(operand: Module | tuple[Any, ...]) -> Module:
    """A tuple stands for its modules in parallel."""
    if isinstance(operand, tuple):
        return Parallel(*(_module(part) for part in operand))
    if not isinstance(operand, Module):
        raise TypeError(
            f"expected a modula Module or a tuple of them, got {type(operand).__name__}, which has "
            "no mass and no sensitivity; write a subclass of modula.Bond that calls it"
        )
    return operand


def _chain(operand: Module | tuple[Any, ...]) -> tuple[Module, ...]:
    """A composition stands for its parts, so that @ never nests."""
    module = _module(operand)
    return module.parts if isinstance(module, Compose) else (module,)


def _refuse_twice(parts: tuple[Module, ...]) -> None:
    """A part that is no Module is refused too."""
    seen: set[int] = set()
    for part in parts:
        atoms = {id(atom): atom for atom in _module(part).modules() if isinstance(atom, Atom)}
        for twice in seen & atoms.keys():
            raise ValueError(
                f"{atoms[twice]} stands in the network twice, but a weight has one budget; use "
                "copy.deepcopy, or ** for fresh copies"
            )
        seen |= atoms.keys()


def _refuse_strangers(net: Module, owners: dict[str, Atom], parts: dict[int, float]) -> None:
    """Each atom must be both registered (it is trained) and in the algebra (it has a budget)."""
    unused = [name for name, atom in owners.items() if id(atom) not in parts]
    if unused or len(parts) != len(owners):
        where = f"the weights of {', '.join(unused)}" if unused else "a weight that is not its own"
        raise ValueError(
            f"the parts of {type(net).__name__} and its expression disagree about {where}: they "
            "must hold the same modules, so build a new network instead of replacing a part"
        )


def _refuse_tied(owners: dict[str, Atom]) -> None:
    names: dict[int, str] = {}
    for name, atom in owners.items():
        other = names.setdefault(id(atom.weight), name)
        if other != name:
            raise ValueError(
                f"{other}.weight and {name}.weight are one tensor, which has room for one budget "
                "only: give each module its own weight"
            )
