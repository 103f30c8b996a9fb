"""Rules for wide weights: transpose, derive as for a tall one, transpose back."""

from dataclasses import replace
from typing import cast

from torch import Tensor

from modula.duality.program.line import Line, line
from modula.duality.program.names import POINT
from modula.duality.setting.derive import Derived, Setting, derive, derives
from modula.kernels.op import Op, Shape, elementwise_cost
from modula.manifolds.transposed import Transposed
from modula.norms.base import Norm
from modula.norms.spectral import Spectral
from modula.norms.vector import EuclideanLength, VectorNorm


def _mT(x: Tensor) -> Tensor:
    return x.mT


transpose = Op("transpose", _mT, elementwise_cost(0, 2))

_TURNED = ("weight", "query", "direction", "tangent", POINT)


def _transposed(setting: Setting, shape: Shape) -> Derived:
    tall = (*shape[:-2], *shape[-2:][::-1])
    norm, manifold = norm_of_transposes(setting.norm), cast(Transposed, setting.manifold).manifold
    inner = derive(replace(setting, norm=cast(Norm, norm), manifold=manifold), tall)
    state = [name for name, slot in inner.slots if slot.shape is None]
    names = {name: f"{name}_T" for name in (*_TURNED, *state)}

    def inside(each: Line) -> Line:
        return replace(each.renamed(names), shape=each.shape or tall)

    read = {name for each in inner.after for name in each.reads}
    after = (
        (
            *(line(names[n], transpose, n) for n in ("weight", POINT) if n in read),
            *map(inside, inner.after),
            line("weight", transpose, "weight_T"),
        )
        if inner.after
        else ()
    )
    return Derived(
        (
            line("weight_T", transpose, "weight"),
            line("query_T", transpose, "query"),
            *(line(names[name], transpose, name) for name in state),
            *map(inside, inner.lines),
            line("direction", transpose, names.get(inner.direction, inner.direction)),
            *(line(name, transpose, names[name]) for name in state),
        ),
        scale=inner.scale,
        after=after,
        slots=inner.slots,
    )


def norm_of_transposes(norm: Norm) -> Norm | None:
    """The norm that is as long for W^T as this one is for W, if that is known."""
    if isinstance(norm, Spectral):
        return Spectral(_euclidean_dual(norm.codomain), _euclidean_dual(norm.domain))
    entries = isinstance(norm, EuclideanLength) or (isinstance(norm, VectorNorm) and norm.ndim == 2)
    return norm if entries else None


@derives(Spectral, Transposed)
def transposed_spectral(setting: Setting, shape: Shape) -> Derived:
    """W^T maps back: its stretch is measured between the duals, RMSDual where W has RMS."""
    return _transposed(setting, shape)


@derives(EuclideanLength, Transposed)
@derives(VectorNorm, Transposed, when=lambda setting, shape: setting.norm.ndim == 2)
def transposed_entries(setting: Setting, shape: Shape) -> Derived:
    """A norm of all entries does not see the transpose."""
    return _transposed(setting, shape)


def _euclidean_dual(norm: EuclideanLength) -> EuclideanLength:
    return cast(EuclideanLength, norm.dual_norm())
