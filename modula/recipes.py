"""Named optimizers, each a declaration: norm, metric, potential, momentum for each weight.

Every recipe takes (model, lr, **options), a normed network or any torch model, and returns a
SteepestDescent.  RECIPES lists them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

from torch import Tensor, nn

from modula.automatic import Automatic
from modula.declare import geometries_of
from modula.duality import (
    Average,
    Clip,
    Declaration,
    HeavyBall,
    Momentum,
    NoMomentum,
    Potential,
    QueryStore,
    Setting,
    Sharp,
    Unit,
)
from modula.geometry import Geometry
from modula.manifolds.base import Manifold
from modula.manifolds.oblique import Oblique
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.norms.base import Norm
from modula.norms.metric import Diagonal, Metric
from modula.norms.operator import RMSToRMS, Rows, Spectral
from modula.norms.vector import L2, RMS, Max
from modula.optimizer import Group, SteepestDescent, check_not_negative, declarations_of

MATRIX_ROLES = ("hidden", "conv")  # the weights that Muon is for; the others meet one-hot inputs


def _weights(model: nn.Module) -> dict[str, tuple[Geometry, Tensor]]:
    weights = dict(model.named_parameters())
    return {name: (geometry, weights[name]) for name, geometry in geometries_of(model).items()}


def _entrywise(
    model: nn.Module,
    norm: Callable[[int], Norm],
    momentum: Momentum,
    weight_decay: float,
    potential: Potential = Unit(),
    metric: Metric | None = None,
) -> Group:
    """One group in which every weight, whatever its role, is measured entry by entry."""
    check_not_negative("weight_decay", weight_decay)
    return Group(
        {
            name: Declaration(
                Setting(norm(weight.ndim), metric=metric, potential=potential, momentum=momentum),
                geometry.role,
                weight_decay=weight_decay or None,
            )
            for name, (geometry, weight) in _weights(model).items()
        }
    )


def sgd(
    model: nn.Module,
    lr: float = 0.1,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Gradient descent: Frobenius, as long as the gradient.

        m <- momentum m + g;   w <- (1 - lr weight_decay) w - lr m

    The decay is decoupled, where torch.optim.SGD adds it to the gradient.
    """
    ball = HeavyBall(momentum, nesterov) if momentum else NoMomentum()
    group = _entrywise(model, L2, ball, weight_decay, potential=Sharp())
    return SteepestDescent(model, lr, groups=[group], **options)


def sign(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Sign descent (Signum): the largest entry, at unit length.

        m <- momentum m + (1 - momentum) g;   w <- (1 - lr weight_decay) w - lr sign(m)

    Source: Bernstein et al. 2018, arXiv:1802.04434.
    """
    average = Average(momentum) if momentum else NoMomentum()
    group = _entrywise(model, Max, average, weight_decay)
    return SteepestDescent(model, lr, groups=[group], **options)


def lion(
    model: nn.Module,
    lr: float = 1e-4,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Lion: sign descent that asks one average and stores another.

        w <- (1 - lr weight_decay) w - lr sign(b1 m + (1 - b1) g);   m <- b2 m + (1 - b2) g

    Source: Chen et al. 2023, arXiv:2302.06675.
    """
    group = _entrywise(model, Max, QueryStore(*betas), weight_decay)
    return SteepestDescent(model, lr, groups=[group], **options)


def _adam(betas: tuple[float, float], eps: float) -> dict[str, Any]:
    return {
        "momentum": Average(betas[0]),
        "potential": Sharp(),
        "metric": Diagonal(beta=betas[1], floor=eps),
    }


def adamw(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    **options: Any,
) -> SteepestDescent:
    """AdamW: Frobenius under a diagonal metric to the power 1/2; equal to torch.optim.AdamW.

        w <- (1 - lr weight_decay) w - lr m_hat / (sqrt(v_hat) + eps)

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    group = _entrywise(model, L2, weight_decay=weight_decay, **_adam(betas, eps))
    return SteepestDescent(model, lr, groups=[group], **options)


SCALES: dict[str, Callable[[int, int], float]] = {
    "rms": lambda m, n: sqrt(m / n),
    "original": lambda m, n: sqrt(max(1.0, m / n)),
    "match_rms_adamw": lambda m, n: 0.2 * sqrt(max(m, n)),
    "spectral": lambda m, n: sqrt(max(m, n)),
}


def _muon_norm(norm: Norm, shape: tuple[int, ...], scale: str) -> Norm:
    """The spectral norm whose unit matrices have the singular values that `scale` names."""
    if scale == "rms":
        return norm
    if len(shape) != 2 or not isinstance(norm, Spectral):
        raise ValueError(
            f"scale={scale!r} is defined for plain matrices, not for {norm} on {shape}; "
            'use scale="rms", which every view understands'
        )
    return (1 / SCALES[scale](*shape)) * Spectral()


def muon(
    model: nn.Module,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    scale: str = "rms",
    adamw_lr: float = 3e-3,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_weight_decay: float = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Muon on hidden matrices, AdamW on embeddings, heads, biases and gains.

        m <- momentum m + (1 - momentum) g;   w <- (1 - lr weight_decay) w - lr s polar(m)

    scale   s for an (m, n) matrix: "rms" sqrt(m/n), the one that transfers across width;
            "original" sqrt(max(1, m/n)), torch's default; "match_rms_adamw" 0.2 sqrt(max(m, n));
            "spectral" sqrt(max(m, n))

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}; got {scale!r}")
    check_not_negative("weight_decay", weight_decay)
    matrices: dict[str, Declaration] = {}
    others: dict[str, Declaration] = {}
    for name, (geometry, weight) in _weights(model).items():
        if geometry.role in MATRIX_ROLES:
            norm = _muon_norm(geometry.norm, tuple(weight.shape), scale)
            setting = Setting(norm, geometry.manifold, momentum=Average(momentum, nesterov))
            matrices[name] = Declaration(setting, geometry.role, 1.0, weight_decay or None)
        else:
            setting = Setting(L2(weight.ndim), **_adam(adamw_betas, 1e-8))
            others[name] = Declaration(setting, geometry.role, 1.0, adamw_weight_decay or None)
    groups = [Group(matrices, lr), Group(others, adamw_lr)]
    return SteepestDescent(model, lr, groups=groups, **options)


def scion(
    model: nn.Module,
    lr: float = 2**-6,
    *,
    momentum: float = 0.9,
    radius: float = 8.0,
    head_radius: float = 64.0,
    constrained: bool = True,
    **options: Any,
) -> SteepestDescent:
    """Scion: every weight in the norm of its role, kept inside a ball of that norm.

        w <- (1 - lr) w - lr radius D(m)      constrained: {norm <= radius} is never left
        w <- w - lr radius D(m)               unconstrained

    Hidden matrices RMSToRMS, embeddings by row, the head by the largest entry times its fan-in,
    biases RMS.  Published radii go from 8 (vision) to 50 and 3000 (a tied language model).
    Source: Pethick et al. 2025, arXiv:2502.07529.
    """
    if not (radius > 0 and head_radius > 0):
        raise ValueError(f"radii must be positive; got {radius} and {head_radius}")
    declarations: dict[str, Declaration] = {}
    for name, (geometry, weight) in _weights(model).items():
        is_head = geometry.role in ("head", "tied")
        unit = float(weight.shape[-1]) * Max(weight.ndim) if is_head else geometry.norm
        norm = (1 / (head_radius if is_head else radius)) * unit
        setting = Setting(norm, geometry.manifold, momentum=Average(momentum))
        declarations[name] = Declaration(setting, geometry.role, 1.0, 1.0 if constrained else None)
    return SteepestDescent(model, lr, groups=[Group(declarations)], **options)


def modular(
    model: nn.Module,
    lr: float | Automatic = 0.1,
    *,
    momentum: float = 0.95,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    **options: Any,
) -> SteepestDescent:
    """The network's own declared geometry, each weight at its modular budget.

        w <- (1 - lr t weight_decay) w - lr t D(m),    t = budget

    Source: Bernstein and Newhouse 2024, arXiv:2410.21265.
    """
    return SteepestDescent(
        model,
        lr,
        momentum=Average(momentum, nesterov) if momentum else NoMomentum(),
        weight_decay=weight_decay,
        **options,
    )


def clipped(
    model: nn.Module,
    lr: float = 0.1,
    *,
    rho: float = 1.0,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Generalised gradient norm clipping: steepest descent near a minimum, Muon-like far from it.

        N = sum_l t_l ||m_l||_*;   w_l <- w_l - lr min(rho, N) t_l D(m_l)

    Source: Pethick et al. 2025, arXiv:2506.01913.
    """
    average = Average(momentum) if momentum else NoMomentum()
    return SteepestDescent(
        model, lr, momentum=average, potential=Clip(rho), weight_decay=weight_decay, **options
    )


def automatic(
    model: nn.Module,
    lr: Automatic = Automatic(),
    *,
    momentum: float = 0.95,
    radius: float = 8.0,
    **options: Any,
) -> SteepestDescent:
    """No learning rate: the network's geometry, AGD's step length, weights in balls of their norm.

        N = sum_l t_l ||m_l||_*;   eta = log((1 + sqrt(1 + 4 N)) / 2)
        w_l <- (1 - eta t_l / radius) w_l - eta t_l D_l,    D_l of beta m + (1 - beta) g

    Let a scheduler lower param_groups' "lr" (1 at first) to 0 over the run.  On a model without
    masses every budget is 1 / number of weights, as in AGD.
    Source: the step length of arXiv:2304.05187 on momenta, the balls of arXiv:2502.07529.
    """
    if not radius > 0:
        raise ValueError(f"radius must be positive; got {radius}")
    declarations = declarations_of(model, Average(momentum, nesterov=True), Unit(), 1 / radius)
    if all(declaration.budget == 1 for declaration in declarations.values()):
        share = 1 / max(1, len(declarations))
        declarations = {n: replace(d, budget=share) for n, d in declarations.items()}
    return SteepestDescent(model, lr, groups=[Group(declarations)], **options)


def _constrained(
    model: nn.Module,
    lr: float,
    geometry_of: Callable[[int, int], Geometry],
    momentum: float,
    options: dict[str, Any],
) -> SteepestDescent:
    """Hidden matrices under geometry_of(fan_out, fan_in), all other weights under their own."""
    declarations = declarations_of(model, Average(momentum) if momentum else NoMomentum())
    for name, (geometry, weight) in _weights(model).items():
        if geometry.role == "hidden" and weight.ndim == 2:
            chosen = geometry_of(weight.shape[0], weight.shape[1])
            setting = replace(
                declarations[name].setting, norm=chosen.norm, manifold=chosen.manifold
            )
            declarations[name] = replace(declarations[name], setting=setting)
    return SteepestDescent(model, lr, groups=[Group(declarations)], **options)


def _tall(manifold: Manifold, fan_out: int, fan_in: int) -> Manifold:
    return manifold if fan_out >= fan_in else Transposed(manifold)


def hypersphere(
    model: nn.Module, lr: float = 0.02, *, momentum: float = 0.95, **options: Any
) -> SteepestDescent:
    """Hidden matrices of constant length, ||W||_F = sqrt(fan_out); lr is the angle of a step.

        t <- m - W <W, m> / <W, W>;   W <- project(W - lr sqrt(fan_out) t / ||t||_F)

    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai).
    """

    def geometry(fan_out: int, fan_in: int) -> Geometry:
        radius = sqrt(fan_out)
        return Geometry((1 / radius) * L2(ndim=2), Sphere(radius, ndim=2))

    return _constrained(model, lr, geometry, momentum, options)


def oblique(
    model: nn.Module, lr: float = 0.02, *, momentum: float = 0.95, **options: Any
) -> SteepestDescent:
    """Hidden matrices with unit rows; lr is the angle by which each row turns.

    Source: Absil and Gallivan 2006, doi:10.1109/ICASSP.2006.1661433, for the manifold.
    """
    return _constrained(
        model, lr, lambda m, n: Geometry(Rows(L2()), Oblique("rows")), momentum, options
    )


def manifold_muon(
    model: nn.Module, lr: float = 0.02, *, momentum: float = 0.95, **options: Any
) -> SteepestDescent:
    """Hidden matrices with orthonormal columns (rows, if wide), times sqrt(fan_out / fan_in).

        D = argmax <m, D> over ||D|| <= 1, W^T D + D^T W = 0;   W <- polar(W - lr D)

    Every such matrix has the RMSToRMS norm one.
    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai).
    """

    def geometry(fan_out: int, fan_in: int) -> Geometry:
        manifold = _tall(Stiefel(sqrt(fan_out / fan_in)), fan_out, fan_in)
        return Geometry(RMSToRMS(), manifold)

    return _constrained(model, lr, geometry, momentum, options)


def unit_condition(
    model: nn.Module, lr: float = 0.02, *, momentum: float = 0.95, **options: Any
) -> SteepestDescent:
    """Hidden matrices whose singular values are all equal, their common size free.

    The manifold is declared; the direction comes from the general solver.
    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai), for the orthogonal case.
    """

    def geometry(fan_out: int, fan_in: int) -> Geometry:
        return Geometry(RMSToRMS(), _tall(UnitConditionNumber(), fan_out, fan_in))

    return _constrained(model, lr, geometry, momentum, options)


def spectral_sphere(
    model: nn.Module,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    radius: float = 2.0,
    **options: Any,
) -> SteepestDescent:
    """Hidden matrices whose largest singular value stays radius * sqrt(fan_out / fan_in).

    D = argmax <m, D> over ||D|| <= 1, <u1 v1^T, D> = 0, by a root of one multiplier.
    Source: the spectral sphere optimizer, 2026 (github.com/Unakar/Spectral-Sphere-Optimizer).
    """

    def geometry(fan_out: int, fan_in: int) -> Geometry:
        return Geometry(RMSToRMS(), SpectralSphere(radius * sqrt(fan_out / fan_in)))

    return _constrained(model, lr, geometry, momentum, options)


def agd(model: nn.Module, lr: Automatic = Automatic(), **options: Any) -> SteepestDescent:
    """Automatic gradient descent as published: full batches, no momentum, Frobenius lengths.

        G = (1/L) sum_l sqrt(m_l / n_l) ||g_l||_F;   eta = log((1 + sqrt(1 + 4 G)) / 2)
        w_l <- w_l - (eta / L) sqrt(m_l / n_l) g_l / ||g_l||_F

    L: number of weights.  Convolutions go tap by tap, an embedding is read as (dim, vocabulary).
    Source: Bernstein et al. 2023, arXiv:2304.05187.
    """
    weights = _weights(model)
    declarations = {
        name: Declaration(
            Setting(_agd_norm(geometry, tuple(weight.shape))),
            geometry.role,
            budget=1 / len(weights),
        )
        for name, (geometry, weight) in weights.items()
    }
    return SteepestDescent(model, lr, groups=[Group(declarations)], **options)


def _agd_norm(geometry: Geometry, shape: tuple[int, ...]) -> Norm:
    if len(shape) < 2:
        return RMS(len(shape))
    fan_out, fan_in = shape[:2]
    if isinstance(geometry.norm, Rows):
        fan_out, fan_in = fan_in, fan_out
    frobenius = sqrt(fan_in / fan_out) * L2(ndim=2)
    if len(shape) == 2:
        return frobenius
    taps = [f"k{i}" for i in range(len(shape) - 2)]
    size = 1
    for extent in shape[2:]:
        size *= extent
    return sqrt(size) * frobenius.on(f"o i {' '.join(taps)} -> {' '.join(taps)} o i")


Recipe = Callable[..., SteepestDescent]

RECIPES: Mapping[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        sgd,
        sign,
        lion,
        muon,
        scion,
        adamw,
        modular,
        clipped,
        agd,
        automatic,
        hypersphere,
        oblique,
        manifold_muon,
        unit_condition,
        spectral_sphere,
    )
}
