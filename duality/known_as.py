"""The name under which the field knows a declaration."""

from functools import singledispatch

from modula.duality.declaration.scalers.base import Scaler
from modula.duality.declaration.scalers.graft import Graft
from modula.duality.declaration.scalers.hyperball import Hyperball
from modula.duality.declaration.scalers.moments import EntryMoments, RowMoments
from modula.duality.declaration.scalers.rms import MatchRMS
from modula.duality.setting.derive import Setting
from modula.duality.setting.momentum import QueryStore
from modula.duality.setting.potential import Clip, Sharp, ShortStep, Unit, Within
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.isospectral import Isospectral
from modula.manifolds.oblique import Oblique
from modula.manifolds.region import Region
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed
from modula.norms.base import Blocks, Norm, Scaled
from modula.norms.metrics.base import First, Metric
from modula.norms.metrics.bias_corrected import CrossFitted, VarianceCorrected
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.metrics.eigenbasis import Eigenbasis
from modula.norms.metrics.inverse_free import SINGD, InverseFree
from modula.norms.metrics.kronecker import (
    KL,
    DenseIfShortest,
    DiagonalMode,
    Flat,
    Kronecker,
    Sum,
    TraceScaled,
)
from modula.norms.metrics.layer import LayerEigenvalues, LayerMoments
from modula.norms.metrics.low_rank import LowRank
from modula.norms.metrics.posterior import Posterior
from modula.norms.metrics.psgd import EQ, PSGD
from modula.norms.operator import Columns, Rows
from modula.norms.spectral import Spectral
from modula.norms.vector import L2, EuclideanLength, Max


def known_as(setting: Setting, decayed: bool, scalers: tuple[Scaler, ...] = ()) -> str:
    """The published optimizer that this declaration is, or what it does in a few words."""
    name = _of_setting(setting, decayed)
    for scaler in scalers:
        name = _scaled(scaler, name)
    return name


@singledispatch
def _scaled(scaler: Scaler, name: str) -> str:
    """What an optimizer is called once this scaler stands behind it."""
    return name


@_scaled.register
def _(scaler: RowMoments, name: str) -> str:
    return "NorMuon" if name.startswith("Muon") else f"{name}, even rows"


@_scaled.register
def _(scaler: EntryMoments, name: str) -> str:
    return "AdaMuon" if name.startswith("Muon") else f"{name}, even entries"


@_scaled.register
def _(scaler: MatchRMS, name: str) -> str:
    return "ASGO" if name == "one-sided Shampoo" else name


@_scaled.register
def _(scaler: Hyperball, name: str) -> str:
    return {"Muon": "MuonH", "Adam": "AdamH"}.get(name, f"{name} on a hyperball")


@_scaled.register
def _(scaler: Graft, name: str) -> str:
    return f"{name}, grafted to {_of_setting(scaler.setting, decayed=False)}"


def _of_setting(setting: Setting, decayed: bool) -> str:
    norm = _innermost(setting.norm)
    if isinstance(setting.manifold, Isospectral):
        return _isospectral(setting.manifold, setting)
    if setting.metric is not None:
        return _under_metric(setting.metric, norm, setting, decayed)
    if isinstance(setting.potential, Clip):
        return "generalised clipping (GGNC)"
    if isinstance(setting.potential, ShortStep):
        return "short-step conditional gradient (S3CG)"
    if not isinstance(setting.manifold, Euclidean):
        return _on_manifold(norm, setting)
    if isinstance(setting.potential, Sharp):
        plain = "SGD" if setting.momentum.rests else "SGD with momentum"
        return plain if isinstance(norm, L2) else "steepest descent"
    if isinstance(setting.potential, Unit):
        return _at_unit_length(norm, setting, decayed)
    return ""


def _under_metric(metric: Metric, norm: Norm, setting: Setting, decayed: bool) -> str:
    muon = _newton_muon(metric, norm)
    if muon:
        return muon
    if isinstance(metric, First):
        name = _of_metric(metric.metric, decayed)
        return f"{name}-Muon" if isinstance(norm, Spectral) else f"{name}, then {norm}"
    name = _of_metric(metric, decayed)
    plain = isinstance(norm, L2) and isinstance(setting.potential, Sharp | Within)
    return name if plain else f"{norm} in the coordinates of {name}"


def _newton_muon(metric: Metric, norm: Norm) -> str:
    """Muon with what a layer's inputs say: the polar factor behind the metric, or inside it."""
    of = metric.metric if isinstance(metric, First) else metric
    if not isinstance(of, LayerMoments) or of.outputs or not isinstance(norm, Spectral):
        return ""
    return "Newton-Muon" if isinstance(metric, First) else "Newton-Muon as a sandwich"


@singledispatch
def _of_metric(metric: Metric, decayed: bool) -> str:
    """The optimizer that follows S^-p m."""
    return type(metric).__name__


@_of_metric.register
def _(metric: Diagonal, decayed: bool) -> str:
    if metric.statistic == "sampled_gradient" and metric.power == 1:
        return "Sophia"
    if metric.memory.beta == 1:
        return "AdaGrad"
    if metric.power == 1 and metric.statistic == "gradient":
        return "root-free RMSProp"
    if not metric.memory.unbiased:
        return "RMSProp"
    return "AdamW" if decayed else "Adam"


@_of_metric.register
def _(metric: CrossFitted | VarianceCorrected, decayed: bool) -> str:
    return f"{_of_metric(metric.metric, decayed)}, bias-corrected"


@_of_metric.register
def _(metric: Posterior, decayed: bool) -> str:
    return "IVON"


@_of_metric.register
def _(metric: LayerMoments, decayed: bool) -> str:
    name = "KFAC" if metric.inputs else "output KFAC"
    name = name if metric.outputs else "FOOF"
    return name if metric.power == 1 else f"{name} to the power {metric.power:g}"


@_of_metric.register
def _(metric: LayerEigenvalues, decayed: bool) -> str:
    return "EKFAC" if metric.power == 1 else f"EKFAC to the power {metric.power:g}"


@_of_metric.register
def _(metric: Kronecker, decayed: bool) -> str:
    modes = metric.modes if isinstance(metric.modes, tuple) else (metric.modes,)
    one_sided = any(isinstance(mode, Flat | DenseIfShortest) for mode in modes)
    root = "" if metric.power == 0.5 else ", root-free"
    fit = {Sum: "Shampoo", TraceScaled: "Shampoo squared", KL: "KL-Shampoo"}[type(metric.fit)]
    if all(isinstance(mode, DiagonalMode | Flat) for mode in modes):
        fit = "KL-Adafactor" if fit == "KL-Shampoo" else f"diagonal {fit}"
        return ("diagonal one-sided Shampoo" if one_sided else fit) + root
    return ("one-sided Shampoo" if one_sided else fit) + root


@_of_metric.register
def _(metric: Eigenbasis, decayed: bool) -> str:
    if isinstance(metric.kronecker.fit, KL):
        return "KL-SOAP"
    return "EShampoo" if metric.kronecker.instant else "SOAP"


@_of_metric.register
def _(metric: PSGD, decayed: bool) -> str:
    return "PSGD Kron" if isinstance(metric.solver, EQ) else "PSGD-PRO"


@_of_metric.register
def _(metric: LowRank, decayed: bool) -> str:
    return "PSGD LRA"


@_of_metric.register
def _(metric: InverseFree, decayed: bool) -> str:
    return "IF-Shampoo"


@_of_metric.register
def _(metric: SINGD, decayed: bool) -> str:
    return "SINGD" if metric.cross else "IKFAC"


def _innermost(norm: Norm) -> Norm:
    while isinstance(norm, Scaled | Blocks):
        norm = norm.norm
    return norm


def _isospectral(manifold: Isospectral, setting: Setting) -> str:
    if manifold.rotations is None:
        return "isospectral descent"
    return "POET" if isinstance(setting.metric, Diagonal) else "isospectral descent by rotations"


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
    if isinstance(manifold, Region):
        return "Muon in a region" if isinstance(norm, Spectral) else "steepest descent in a region"
    if isinstance(norm, EuclideanLength):
        return "Riemannian gradient descent"
    return "Riemannian steepest descent"


def _at_unit_length(norm: Norm, setting: Setting, decayed: bool) -> str:
    if isinstance(norm, Max):
        return "Lion" if isinstance(setting.momentum, QueryStore) else "sign descent"
    if isinstance(norm, Spectral):
        return "Muon" if not decayed else "Muon in a norm ball (Scion)"
    if isinstance(norm, Rows | Columns):
        return "row-normalised" if isinstance(norm, Rows) else "column-normalised"
    if isinstance(norm, EuclideanLength):
        return "normalised SGD"
    return "steepest descent"
