"""Checkpoints of a training run, written atomically.

A checkpoint is a folder `step-00000100` with weights.safetensors, state.pt (optimizer, schedule,
random numbers) and manifest.json, which names the step and the sha256 of the other two.  It is
written under another name and moved into place whole, so a folder of that name is complete by
construction and the newest one is the one to continue from.  The one before it is kept as well.
"""

import io
import json
import os
import re
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from modula.errors import UserError, disk_errors_in_words
from modula.training.files import sync_folder, write_synced

FORMAT = "modula checkpoint 1"
WEIGHTS, STATE, MANIFEST = "weights.safetensors", "state.pt", "manifest.json"
KEPT = 2
NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training run: weights, optimizer, schedule, random state, step.

    step     how many steps are done
    about    what JSON can hold: the text's sha256, the seconds spent
    weights  by full name
    state    of optimizer, schedule and random numbers: tensors, numbers, lists and dicts
    """

    step: int
    about: dict[str, Any]
    weights: dict[str, Tensor]
    state: dict[str, Any]


def steps_in(folder: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    matches = (NAME.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def place(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return folder / f"step-{step:08d}"


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; if that fails, those already there stay as they are."""
    target = place(folder, checkpoint.step)
    fresh = folder / f".new-{target.name}"
    with disk_errors_in_words("write", target):
        folder.mkdir(parents=True, exist_ok=True)
        clear_killed(folder)  # a new one would fail to create a folder of that name
        try:
            _write(fresh, checkpoint)
            _discard(target)
            os.replace(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        sync_folder(folder)
        for step in steps_in(folder)[:-KEPT]:
            _discard(place(folder, step))


def clear_killed(folder: Path) -> None:
    """Remove what a killed save left: folders that have no checkpoint's name yet, or no more."""
    with disk_errors_in_words("clear", folder):
        for left in folder.glob(".*-step-*"):
            shutil.rmtree(left)


def _write(fresh: Path, checkpoint: Checkpoint) -> None:
    fresh.mkdir()
    # Serialised in memory first: torch and safetensors hide why a disk refuses behind own errors.
    files = {WEIGHTS: _weights_to_bytes(checkpoint.weights), STATE: _to_bytes(checkpoint.state)}
    manifest = {
        "format": FORMAT,
        "step": checkpoint.step,
        "about": checkpoint.about,
        "sha256": {name: sha256(data).hexdigest() for name, data in files.items()},
    }
    for name, data in files.items():
        write_synced(fresh / name, data)
    # The manifest is the last: where it is, what it names has reached the disk.
    write_synced(fresh / MANIFEST, json.dumps(manifest, indent=2).encode())
    sync_folder(fresh)


def _weights_to_bytes(weights: dict[str, Tensor]) -> bytes:
    # Cloned, as safetensors refuses tensors that share memory.
    apart = {name: weight.detach().contiguous().clone() for name, weight in weights.items()}
    return safetensors.torch.save(apart, {"format": "pt"})


def _to_bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _discard(target: Path) -> None:
    """Remove a checkpoint: first its name, in one move, so that a half-removed one has none."""
    if target.exists():
        gone = target.with_name(f".old-{target.name}")
        os.replace(target, gone)
        shutil.rmtree(gone, ignore_errors=True)


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint; None if there is none."""
    steps = steps_in(folder)
    return load(place(folder, steps[-1])) if steps else None


def load(target: Path) -> Checkpoint:
    """Read a checkpoint; UserError, with the reason, if it is damaged."""
    manifest = _manifest(target)
    try:
        data = {name: (target / name).read_bytes() for name in (WEIGHTS, STATE)}
        for name, content in data.items():
            if sha256(content).hexdigest() != manifest["sha256"][name]:
                raise ValueError(f"{name} is not what was written")
        if place(target.parent, manifest["step"]) != target:
            raise ValueError(f"{MANIFEST} is that of step {manifest['step']}")
        return Checkpoint(
            step=manifest["step"],
            about=dict(manifest["about"]),
            weights=safetensors.torch.load(data[WEIGHTS]),
            state=torch.load(io.BytesIO(data[STATE]), map_location="cpu", weights_only=True),
        )
    except OSError as error:
        raise _broken(target, f"cannot read {error.filename}: {error.strerror}") from error
    except SafetensorError as error:
        raise _broken(target, f"{WEIGHTS} cannot be read") from error
    except ValueError as error:
        raise _broken(target, " ".join(str(error).split())) from error
    except Exception as error:  # crafted files fail in any way, pickles inside torch.load above all
        raise _broken(target, f"its contents cannot be read ({type(error).__name__})") from error


def _manifest(target: Path) -> dict[str, Any]:
    path = target / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(target, f"{MANIFEST} is missing or unreadable") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(
            f"{target} is not a checkpoint of modula train: {MANIFEST} does not say {FORMAT!r}"
        )
    return manifest


def _broken(target: Path, reason: str) -> UserError:
    others = [step for step in steps_in(target.parent) if place(target.parent, step) != target]
    cure = f"; remove that folder to continue from step {others[-1]}" if others else ""
    return UserError(f"the checkpoint {target} is broken: {reason}{cure}")
