"""Declaring the geometry of a plain torch model: by type, by role, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any, TypeVar

from torch import Tensor, nn

from modula.errors import nearest
from modula.manifolds.base import Manifold
from modula.network.geometry import Geometry, geometries
from modula.network.trained import trained_weights
from modula.norms.base import Norm
from modula.norms.checks import shown
from modula.norms.metrics.base import Then, Under
from modula.norms.operator import RMSToRMS, Rows
from modula.norms.vector import RMS, Max

ROLES = ("hidden", "embedding", "head", "tied", "conv", "bias", "gain")
HEAD_NAMES = ("head", "lm_head", "classifier", "unembed", "unembedding", "output_projection")

Model = TypeVar("Model", bound=nn.Module)
Choice = Geometry | Norm | Under | Then | Manifold
Key = str | type[nn.Module]


def check_model(what: str, model: object) -> None:
    """Raise ValueError unless given an nn.Module, as where model.parameters() is passed."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{what} needs the network itself, a torch.nn.Module, and not its parameters: roles "
            f"and names are read from it; got {shown(model)}"
        )


def declare(model: Model, overrides: Mapping[Key, Choice] | None = None) -> Model:
    """Declare a geometry for every weight of a torch model, on the modules that own them.

    By type: Linear RMSToRMS; Embedding Rows(RMS()); convolutions the largest tap; biases RMS;
    gains of normalisation layers Max; attention's fused projections one block each.  A Linear
    called head, lm_head, classifier, ... has role "head"; a weight used by two modules "tied".

    overrides   key: a name pattern ("blocks.*.attn.*"), a role, or a module type;
                value: a Norm, norm.under(metric), metric.then(norm) or a Manifold that replaces
                the default, or a whole Geometry

    Returns the model.  Raises ValueError, with nothing declared, for weights that no default and
    no override covers, and for overrides that cover none.
    """
    check_model("declare", model)
    _check_overrides(overrides or {})
    declared = _with_overrides(model, _defaults(model), dict(overrides or {}))
    weights = model.named_parameters()
    missing = [name for name, weight in weights if name not in declared and weight.numel()]
    if missing:
        raise ValueError(
            f"no geometry is known for {', '.join(missing)}: give each a norm, for example "
            f"declare(model, {{{missing[0]!r}: modula.norms.RMSToRMS()}})"
        )
    for name, geometry in declared.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, "geometry", {**getattr(module, "geometry", {}), leaf: geometry})  # noqa: B010
    return model


def _check_overrides(overrides: Mapping[Key, Choice]) -> None:
    """Raise ValueError for what names no weights."""
    if not isinstance(overrides, Mapping):
        raise ValueError(
            f"declare needs a mapping from names, roles or types of modules to norms, manifolds or "
            f'geometries, such as {{"head": RMSToRMS()}}; got {shown(overrides)}'
        )
    for key in overrides:
        if not isinstance(key, str | type):
            raise ValueError(
                f"the override {shown(key)} is no name, no role and no type of modules: write it "
                'as "blocks.*.weight", "head" or torch.nn.Linear'
            )


def geometries_of(model: nn.Module) -> dict[str, Geometry]:
    """The declared geometry of every trainable weight, defaults where nothing is declared.

    Weights without entries have none.  Raises ValueError for weights that neither covers, and for
    those that no norm measures, such as complex ones.
    """
    weights = trained_weights(model)
    known = {**_defaults(model), **geometries(model)}
    missing = [name for name in weights if name not in known]
    if missing:
        raise ValueError(
            f"no geometry is declared for {', '.join(missing)}: declare them, for example "
            f"modula.declare(model, {{{missing[0]!r}: modula.norms.RMSToRMS()}})"
        )
    return {name: known[name] for name in weights}


def _defaults(model: nn.Module) -> dict[str, Geometry]:
    users: dict[int, list[str]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for leaf, weight in module.named_parameters(recurse=False):
            users.setdefault(id(weight), []).append(f"{prefix}.{leaf}".lstrip("."))
    found: dict[str, Geometry] = {}
    for name, module, leaf, weight in _weights(model):
        geometry = _default(name, module, leaf, weight)
        if geometry is not None:
            # named_parameters() shows a tied weight once, under the name of its first user.
            tied = len(set(users[id(weight)])) > 1
            found[name] = replace(geometry, role="tied") if tied else geometry
    return found


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    for name, weight in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        yield name, model.get_submodule(owner), leaf, weight


def _default(name: str, module: nn.Module, leaf: str, weight: Tensor) -> Geometry | None:
    for kind, rule in _BY_TYPE.items():
        if isinstance(module, kind):
            geometry = rule(module, leaf, weight)
            break
    else:
        geometry = _by_class_name(module, leaf, weight)
    if geometry is None and leaf.endswith("bias") and weight.ndim == 1:
        return Geometry(RMS(), role="bias")
    is_head = geometry is not None and geometry.role == "hidden" and _is_head(name)
    return replace(geometry, role="head") if geometry is not None and is_head else geometry


def _is_head(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[-2].lower() in HEAD_NAMES


def _linear(module: nn.Module, leaf: str, weight: Tensor) -> Geometry | None:
    return Geometry(RMSToRMS()) if leaf == "weight" else None


def _embedding(module: nn.Module, leaf: str, weight: Tensor) -> Geometry | None:
    return Geometry(Rows(RMS()), role="embedding")


def _conv(module: nn.Module, leaf: str, weight: Tensor) -> Geometry | None:
    if leaf != "weight":
        return None
    taps = [f"k{i}" for i in range(weight.ndim - 2)]
    fans = "i o" if getattr(module, "transposed", False) else "o i"
    per_tap = RMSToRMS().on(f"{fans} {' '.join(taps)} -> {' '.join(taps)} o i")
    return Geometry(float(prod(weight.shape[2:])) * per_tap, role="conv")


def _gain(module: nn.Module, leaf: str, weight: Tensor) -> Geometry | None:
    return Geometry(Max(weight.ndim), role="gain") if leaf == "weight" else None


def _fused(blocks: int) -> Norm:
    return RMSToRMS().on("(block o) i -> block o i", block=blocks)


def _attention(module: nn.Module, leaf: str, weight: Tensor) -> Geometry | None:
    if leaf == "in_proj_weight":
        return Geometry(_fused(3))
    if leaf in ("bias_k", "bias_v"):
        return Geometry(RMS(weight.ndim), role="bias")
    return Geometry(RMSToRMS()) if weight.ndim == 2 else None


def _recurrent(module: nn.Module, leaf: str, weight: Tensor) -> Geometry | None:
    gates = {"LSTM": 4, "GRU": 3}.get(getattr(module, "mode", ""), 1)
    if weight.ndim < 2:
        return Geometry(RMS(), role="bias")
    return Geometry(_fused(gates) if gates > 1 else RMSToRMS())


def _by_class_name(module: nn.Module, leaf: str, weight: Tensor) -> Geometry | None:
    """Layers of other libraries, known by the name of their class so that none is imported."""
    kind = type(module).__name__
    if kind == "Conv1D" and leaf == "weight" and weight.ndim == 2:
        return Geometry(RMSToRMS().on("i o -> o i"))  # transformers' GPT-2 stores (in, out)
    if kind.endswith("RMSNorm") and leaf == "weight":
        return Geometry(Max(weight.ndim), role="gain")
    return None


_Rule = Callable[[Any, str, Tensor], Geometry | None]
_BY_TYPE: dict[Any, _Rule] = {
    nn.Linear: _linear,
    (nn.Embedding, nn.EmbeddingBag): _embedding,
    nn.modules.conv._ConvNd: _conv,
    (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase): _gain,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
}


def _with_overrides(
    model: nn.Module, known: dict[str, Geometry], overrides: dict[Key, Choice]
) -> dict[str, Geometry]:
    declared = {**known, **geometries(model)}
    used: set[Key] = set()
    for name, module, _, weight in _weights(model):
        for key, choice in overrides.items():
            if _covers(key, name, module, declared.get(name)):
                used.add(key)
                declared[name] = _chosen(choice, declared.get(name), weight)
    for key in overrides:
        if key not in used:
            names = [name for name, _ in model.named_parameters()]
            near = nearest(str(key), [*names, *ROLES], count=3, cutoff=0.3)
            raise ValueError(
                f"the override {key!r} covers no weight; "
                f"the nearest names are {', '.join(near) or ', '.join(names[:3])}"
            )
    return declared


def _covers(key: Key, name: str, module: nn.Module, geometry: Geometry | None) -> bool:
    if not isinstance(key, str):
        return isinstance(module, key)
    if key in ROLES:
        return geometry is not None and geometry.role == key
    return fnmatchcase(name, key)


def _chosen(choice: Choice, before: Geometry | None, weight: Tensor) -> Geometry:
    if isinstance(choice, Geometry):
        return choice
    if isinstance(choice, Norm | Under | Then):
        chosen = Geometry(choice.over(weight.ndim))  # type: ignore[arg-type]
        return chosen if before is None else replace(before, norm=chosen.norm, metric=chosen.metric)
    if not isinstance(choice, Manifold):
        raise ValueError(
            f"{choice!r} is no geometry of one weight: give a Norm such as RMSToRMS(), a Manifold "
            f"such as Stiefel(), or a Geometry with both"
        )
    if before is None:
        raise ValueError(f"{choice} is a manifold, but no norm is known: give a Geometry")
    return replace(before, manifold=choice)
