"""A config is its own file, and a wrong one is refused in one sentence."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modula.errors import UserError
from modula.training.config import Config, differences, read_config, read_toml, to_toml


def test_a_config_is_its_own_file(tmp_path: Path) -> None:
    config = replace(Config(), data='C:\\some "text"', lr=1e-05, optimizer="adamw")
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    assert read_config(tmp_path) == config
    assert Config(**read_toml(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"threads": -1}, "threads must be positive"),
        ({"threads": 100_000}, "threads must be positive and at most 512, .* not 100000"),
        ({"seed": 10**20}, "seed must be from -9223372036854775808 to 18446744073709551615"),
        ({"seed": 2**64}, "seed must be from"),
        ({"seed": -(2**63) - 1}, "seed must be from"),
        ({"width": 10**20}, "width must be at most 2147483647, not 1000"),
        ({"steps": 2**31}, "steps must be at most 2147483647"),
        ({"optimizer": "adamw", "lr": 10**400}, "lr must be a positive number"),
        ({"data": "a\0b"}, "data must be UTF-8 without a NUL byte"),
        ({"data": "\udcff.txt"}, "data must be UTF-8"),
        ({"device": "cpu\0"}, "device must be UTF-8 without a NUL byte"),
        ({"optimizer": "muon", "options": "momentum=" + "(" * 5000}, "options are NAME=VALUE"),
        ({"heads": 3}, "3 heads do not divide a width of 16 into even parts: .* fits is 18"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"batch": 1.5}, "batch must be a whole number, not 1.5"),
        ({"data": 3}, "data must be a text, not 3"),
        ({"optimizer": "muno"}, "unknown optimizer 'muno': did you mean muon"),
        ({"optimizer": "adamw", "lr": -1.0}, "lr must be a positive number"),
        ({"optimizer": "adamw", "lr": math.nan}, "lr must be a positive number"),
        ({"optimizer": "automatic", "lr": 0.1}, "automatic chooses its own learning rate"),
    ],
)
def test_a_wrong_config_is_one_sentence(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part):
        replace(Config(width=16, heads=2), **wrong)


@pytest.mark.parametrize("seed", [-(2**63), -1, 2**64 - 1])
def test_every_seed_that_torch_takes_is_taken(seed: int) -> None:
    torch.manual_seed(Config(seed=seed).seed)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"seed = " + b"9" * 5000, "is not a TOML file"),
        (b"width = ", "is not a TOML file"),
        (b"\xff\xfe", "is not a TOML file"),
        (b"x = " + b"[" * 100_000, "is not a TOML file"),
        (b"widht = 3", "unknown key 'widht' in .*did you mean width"),
        (b"[width]\nx = 1", "width must be a whole number, not {'x': 1}"),
        (b'steps = "3"', "steps must be a whole number, not '3'"),
        (b"lr = true", "lr must be a number, not True"),
        (b"lr = nan", "lr must be a positive number, not nan"),
        (b"seed = 99999999999999999999", "seed must be from"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(UserError, match=part) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["absent", "a folder", "a loop"])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.toml"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a loop":
        path.symlink_to(path)
    with pytest.raises(UserError, match="cannot read .*config.toml|holds no run to resume"):
        read_config(tmp_path)


def test_differences_are_named_and_places_are_none() -> None:
    config = Config(data="a", device="cpu")
    assert differences(config, replace(config, data="b", device="cuda:0")) == ""
    changed = replace(config, seed=1, context=64)
    assert differences(changed, config) == "context is 64 and was 128, seed is 1 and was 0"
