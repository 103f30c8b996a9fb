"""What has no gradient in a step does not move at a length of its own: rows, experts, weights."""

from __future__ import annotations

from functools import cache

from torch import Tensor

from modula.duality.program.line import Line, line
from modula.duality.rules.separable import vector_of
from modula.duality.setting.derive import Setting
from modula.kernels.elementwise import silence
from modula.kernels.op import Locality, Op, Shape, elementwise_cost
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.oblique import Oblique
from modula.norms.base import Blocks, Norm, Scaled
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.operator import Columns, Rows
from modula.norms.vector import L2, Max

ACTIVE = "active"  # the query, without what has no gradient in this step


def active_line(norm: Norm, query: str, gradient: str = "gradient") -> Line:
    """active = the query on each part of the norm with a gradient in this step, and 0 elsewhere.

    A duality map makes the smallest query a step of length one.  Along an average of gradients
    a row of an embedding, an expert or a dead unit would go on for ever, long after its last one.
    """
    return line(ACTIVE, _active_op(norm), query, gradient)


def moving_alone(setting: Setting, shape: Shape) -> Norm:
    """The norm whose parts move by themselves: the whole weight where something couples them."""
    norm, manifold = setting.norm, setting.manifold
    whole = L2(len(shape))
    if isinstance(manifold, Oblique) and vector_of(norm, manifold.axis) is not None:
        return Rows(L2()) if manifold.axis == "rows" else Columns(L2())
    if not isinstance(manifold, Euclidean):
        return whole
    return norm if setting.metric is None or isinstance(setting.metric, Diagonal) else whole


def _parts_of(norm: Norm) -> tuple[str, Norm]:
    """The name of a norm's parts, and one norm for all that have the same ones."""
    if isinstance(norm, Scaled):
        return _parts_of(norm.norm)
    if isinstance(norm, Max) or (isinstance(norm, Rows | Columns) and isinstance(norm.vector, Max)):
        return "entries", Max(norm.ndim)
    if isinstance(norm, Rows):
        return "rows", Rows(L2())
    if isinstance(norm, Columns):
        return "columns", Columns(L2())
    if type(norm).nonzero_parts is Norm.nonzero_parts:
        return "weight", L2(norm.ndim)
    return str(norm), norm


def _active_op(norm: Norm) -> Op:
    name, parts = _parts_of(norm)
    return silence.active if name == "entries" else _active_in(parts, name)


@cache
def _active_in(norm: Norm, name: str) -> Op:
    def active(query: Tensor, gradient: Tensor) -> Tensor:
        parts = norm.nonzero_parts(gradient)
        if parts.device.type == "cpu" and parts.all():  # a look that nobody waits for
            return query
        return query.where(parts, 0.0)

    known = {"rows": Locality.ROWS, "columns": Locality.COLUMNS}
    locality, cost = known.get(name, Locality.WHOLE), elementwise_cost(1, 4)
    return Op(f"active[{name}]", active, cost, locality, can_fail=not _is_plain(norm))


def _is_plain(norm: Norm) -> bool:
    """Whether its parts are found by nothing that a user wrote."""
    if isinstance(norm, Scaled | Blocks):
        return _is_plain(norm.norm)
    return _parts_of(norm)[0] in ("entries", "rows", "columns", "weight")
