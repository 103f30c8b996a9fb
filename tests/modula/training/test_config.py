"""A config is its own file, and a wrong one is refused in one sentence."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modula.errors import UserError
from modula.training.config import Config, read_toml, to_toml
from modula.training.run import read_config


def test_a_config_is_its_own_file(tmp_path: Path) -> None:
    config = replace(Config(), data='C:\\some "text"', lr=1e-05, optimizer="adamw")
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    assert read_config(tmp_path) == config
    assert Config(**read_toml(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"threads": -1}, "threads must be positive"),
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
