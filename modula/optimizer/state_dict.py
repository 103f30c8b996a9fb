"""Loading of a saved state_dict: what it has to agree with, and where its values go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from modula.duality import Declaration
from modula.optimizer.param_groups import DeclaredWeight


def fingerprint(declaration: Declaration) -> str:
    """What a saved state has to agree with of a declaration, as text."""
    setting = declaration.setting
    parts = (setting.norm, setting.manifold, setting.metric, setting.potential, setting.momentum)
    return f"{' '.join(map(str, (*parts, *declaration.scalers)))} budget {declaration.budget:.6g}"


def check_loadable(
    groups: Sequence[Sequence[DeclaredWeight]],
    state: Mapping[Tensor, Mapping[str, Tensor]],
    saved: Mapping[str, Any],
) -> None:
    """Raise ValueError unless a saved state_dict has these weights, geometries and shapes."""
    counts = [len(row["params"]) for row in saved["param_groups"]], [*map(len, groups)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"the saved state has groups of {counts[0]} weights, this optimizer of {counts[1]}"
        )
    index = 0
    for row, weights in zip(saved["param_groups"], groups, strict=True):
        geometry = row.get("geometry", [None] * len(weights))
        for (name, weight, declaration), was in zip(weights, geometry, strict=True):
            now = fingerprint(declaration)
            if was != now:
                raise ValueError(
                    f"{name} was saved under {was or 'no geometry'}, but is declared {now}: "
                    "build the optimizer as it was when the state was saved"
                )
            _check_state(name, state[weight], saved["state"].get(index, {}))
            index += 1


def _check_state(name: str, own: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    """Raise ValueError unless the saved state has every tensor of the own one, in its shape."""
    for key, value in own.items():
        if key not in saved or tuple(saved[key].shape) != tuple(value.shape):
            have = {k: tuple(v.shape) for k, v in saved.items()}
            raise ValueError(f"{name} needs saved {key} of shape {tuple(value.shape)}; got {have}")


def copy_state_(
    state: Mapping[Tensor, Mapping[str, Tensor]], saved: Mapping[Tensor, Mapping[str, Tensor]]
) -> None:
    """Write saved values into the state of each weight."""
    # In place: the tensors are views of the buffers of batches, which a new tensor would not be.
    for weight, own in state.items():
        for name, value in own.items():
            value.copy_(saved[weight][name])
