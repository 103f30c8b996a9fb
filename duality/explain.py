"""The name under which the field knows a declaration."""

from modula.duality.momentum import NoMomentum, QueryStore
from modula.duality.potential import Clip, Sharp, ShortStep, Unit
from modula.duality.rules import Setting
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.oblique import Oblique
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed
from modula.norms.base import Blocks, Norm, Scaled
from modula.norms.metric import Diagonal
from modula.norms.operator import Columns, Rows, Spectral
from modula.norms.vector import L2, EuclideanLength, Max


def known_as(setting: Setting, weight_decay: float | None) -> str:
    """The published optimizer that this declaration is, or what it does in a few words."""
    norm = _innermost(setting.norm)
    if isinstance(setting.metric, Diagonal):
        return "Adam" if not weight_decay else "AdamW"
    if isinstance(setting.potential, Clip):
        return "generalised clipping (GGNC)"
    if isinstance(setting.potential, ShortStep):
        return "short-step conditional gradient (S3CG)"
    if not isinstance(setting.manifold, Euclidean):
        return _on_manifold(norm, setting)
    if isinstance(setting.potential, Sharp):
        plain = "SGD" if isinstance(setting.momentum, NoMomentum) else "SGD with momentum"
        return plain if isinstance(norm, L2) else "steepest descent"
    if isinstance(setting.potential, Unit):
        return _at_unit_length(norm, setting, weight_decay)
    return ""


def _innermost(norm: Norm) -> Norm:
    while isinstance(norm, Scaled | Blocks):
        norm = norm.norm
    return norm


def _on_manifold(norm: Norm, setting: Setting) -> str:
    manifold = setting.manifold
    while isinstance(manifold, Transposed):
        manifold = manifold.manifold
    if isinstance(manifold, Stiefel) and isinstance(norm, Spectral):
        return "manifold Muon"
    if isinstance(manifold, Sphere):
        return "hyperspherical descent"
    if isinstance(manifold, Oblique):
        return "oblique descent"
    if isinstance(norm, EuclideanLength):
        return "Riemannian gradient descent"
    return "Riemannian steepest descent"


def _at_unit_length(norm: Norm, setting: Setting, weight_decay: float | None) -> str:
    if isinstance(norm, Max):
        return "Lion" if isinstance(setting.momentum, QueryStore) else "sign descent"
    if isinstance(norm, Spectral):
        return "Muon" if not weight_decay else "Muon in a norm ball (Scion)"
    if isinstance(norm, Rows | Columns):
        return "row-normalised" if isinstance(norm, Rows) else "column-normalised"
    if isinstance(norm, EuclideanLength):
        return "normalised SGD"
    return "steepest descent"
