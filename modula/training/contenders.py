"""The runs of a folder and their names: one run, or the contenders of a comparison."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modula.errors import UserError, disk_errors_in_words, suggest
from modula.recipes import RECIPES
from modula.training.config import Config, differences, find_device, read_config, thread_count
from modula.training.files import COMPARISON

BETWEEN_CONTENDERS = re.compile(r",(?![^(]*\))")  # not the commas of (0.9, 0.95)
# A contender's name is the name of its folder, on every system: no separator, nothing reserved.
FOLDER_NAME = re.compile(r"[\w@=.,+\-()\[\]']{0,199}[\w)\]']", re.ASCII)
OWN = ("optimizer", "lr", "options")  # what may differ between the contenders of a comparison

Configs = dict[str, Config]  # by name of the run; "" for a run that is the folder itself


def contenders(base: dict[str, Any], words: list[str]) -> Configs:
    """The runs of --compare: each word is a contender, a few words may be joined by commas."""
    names = [name for word in words for name in BETWEEN_CONTENDERS.split(word) if name]
    if words:
        check_names(names)
    configs = {name: contender(base, name) for name in names} or {"": Config(**base)}
    return {name: settled(config) for name, config in configs.items()}


def settled(config: Config) -> Config:
    """The config with device and threads filled in, so that the run can be repeated."""
    return replace(config, device=str(find_device(config.device)), threads=thread_count(config))


def check_names(names: Sequence[str]) -> None:
    """Raise UserError unless these can be the contenders of a comparison, each in a folder of it.

    A name begins with that of an optimizer, is the name of one folder on every system, and is
    there once, whatever the case of its letters.
    """
    if not names:
        raise UserError("a comparison needs contenders, such as: adamw muon automatic")
    seen: dict[str, str] = {}
    for name in names:
        optimizer = name.partition("@")[0]
        if optimizer not in RECIPES:
            raise UserError(f"unknown optimizer {optimizer!r}: {suggest(optimizer, RECIPES)}")
        if not FOLDER_NAME.fullmatch(name):
            raise UserError(
                f"{name!r} cannot be the name of a folder: a contender is NAME, NAME@LR or "
                f"NAME@LR@OPTION=VALUE, of at most 200 letters, digits and @=.,+-()[]'"
            )
        if same := seen.get(name.lower()):
            raise UserError(f"{name} would have the same folder as {same}: name each once")
        seen[name.lower()] = name


def contender(base: dict[str, Any], name: str) -> Config:
    """The config of one run: `base` with NAME or NAME@LR, and more @OPTION=VALUE behind."""
    optimizer, *parts = name.split("@")
    chosen: dict[str, Any] = {"optimizer": optimizer}
    for part in parts:
        if "=" in part:
            chosen["options"] = f"{chosen.get('options', '')} {part}".strip()
        else:
            chosen["lr"] = _rate(part, name)
    return Config(**{**base, **chosen})


def _rate(word: str, name: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UserError(f"{name!r} is not NAME@LR: {word!r} is no number") from None


def configs_in(folder: Path) -> Configs:
    """Configs of the runs in a folder, by name of the run.

    Raises UserError where a name leads out of the folder, or where the runs of a comparison
    differ in more than their optimizer.
    """
    with disk_errors_in_words("read", folder):
        if not (folder / COMPARISON).exists():
            return {"": read_config(folder)}
        names = _names_in(folder)
        configs = {name: read_config(folder / name) for name in names}
    first = next(iter(configs.values()))
    for name, config in configs.items():
        own = {field: getattr(first, field) for field in OWN}
        if differs := differences(first, replace(config, **own)):
            raise UserError(
                f"{folder / name} is not of the comparison in {folder}, whose runs differ in "
                f"their optimizer alone: {differs}"
            )
    return configs


def _names_in(folder: Path) -> list[str]:
    path = folder / COMPARISON
    try:
        names = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is broken: it is no JSON") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} is broken: it is no list of names")
    try:
        check_names(names)
    except UserError as error:
        raise UserError(f"{path} is broken: {error}") from error
    for name in names:
        if (folder / name).resolve().parent != folder.resolve():
            raise UserError(f"{folder / name} is a link that leads out of {folder}")
    return names
