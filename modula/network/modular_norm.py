"""The modular norm and the product manifold of a whole network."""

from __future__ import annotations

from torch import nn

from modula.manifolds.product import Product
from modula.network.algebra import budgets_of
from modula.network.declare import geometries_of
from modula.norms.modular import Composition, MaxOf


def product_manifold(model: nn.Module) -> Product:
    """The product of the manifolds of all trainable weights, by full name.

        M = M_1 x M_2 x ...,   residual(w)^2 = sum_l residual_l(w_l)^2

    A step of length lr in the modular norm is retract(w, -lr D), with D_l = t_l times a tangent of
    norm one: each weight moves on its own manifold, by lr t_l.

    >>> import modula
    >>> net = modula.Linear(2, 3) @ modula.ReLU() @ modula.Linear(3, 4)
    >>> product_manifold(net)
    {0.weight: Euclidean(), 2.weight: Euclidean()}

    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai).
    """
    return Product(tuple((n, geometry.manifold) for n, geometry in geometries_of(model).items()))


def modular_norm(model: nn.Module) -> Composition:
    """||dw|| = max_l ||dw_l|| / t_l, in which a network's budgets are the lengths of its steps.

    Without masses every t_l is 1.  Raises ValueError for a weight of budget 0, which no step of
    finite norm moves.

    Source: Large et al. 2024, arXiv:2405.14813.
    """
    budgets, known = budgets_of(model), geometries_of(model)
    still = [name for name in known if budgets.get(name, 1.0) == 0]
    if still:
        raise ValueError(f"{', '.join(still)} has mass 0: give it a mass, or freeze it")
    return MaxOf({name: (each.norm, 1 / budgets.get(name, 1.0)) for name, each in known.items()})
