"""The names of a comparison stay inside its folder, from the command line and from its file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from modula.errors import UserError
from modula.training.config import CONFIG, Config, to_toml
from modula.training.contenders import check_names, configs_in, contenders
from modula.training.files import COMPARISON

BASE = {"width": 16, "heads": 2, "device": "cpu"}
BAD_NAMES = [
    "../muon", "/etc/muon", "muon@../../x", "muon@x=1/2", "muon@a\\b", "muon@\0", "", ".", "..",
    "NUL", "con", "muon:stream", "muon@" + "9" * 300, "muon@1.", "muon@x=*", "muon@x= ", "muon@\n",
    "muon@x=\u202e",
]  # fmt: skip


def folder_of(tmp_path: Path, content: object, *names: str, **changed: Config) -> Path:
    for name in names:
        (tmp_path / name).mkdir()
        config = changed.get(name) or Config(**{**BASE, "optimizer": name})
        (tmp_path / name / CONFIG).write_text(to_toml(config))
    (tmp_path / COMPARISON).write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_folder_is_refused_wherever_it_comes_from(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match="unknown optimizer|cannot be the name of a folder"):
        check_names([name])
    with pytest.raises(UserError, match="comparison.json is broken: "):
        configs_in(folder_of(tmp_path, ["muon", name], "muon"))
    if name:
        with pytest.raises(UserError):
            contenders(BASE, [name])


@pytest.mark.parametrize(
    "name",
    ["muon", "adamw@0.01", "adamw@1e-3@betas=(0.8,0.9)", "soap@0.02@state_dtype=bfloat16"],
)
def test_names_that_are_folders_are_taken(name: str) -> None:
    (config,) = contenders(BASE, [name]).values()
    assert config.optimizer == name.partition("@")[0]


@pytest.mark.parametrize("names", [["muon", "muon"], ["adamw@1e-3", "adamw@1E-3"]])
def test_contenders_that_would_share_a_folder_are_refused(names: list[str]) -> None:
    with pytest.raises(UserError, match="would have the same folder"):
        contenders(BASE, names)


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 100_000, "3", '"muon"', "{}", "[]", "[3]", '[["muon"]]', "null"]
)
def test_a_broken_list_of_names_is_one_sentence(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError) as caught:
        configs_in(folder_of(tmp_path, content))
    assert "comparison.json is broken: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    folder = folder_of(tmp_path / "runs", ["muon", "adamw"], "adamw")
    (folder / "muon").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="muon is a link that leads out"):
        configs_in(folder)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"context": 64}, {"threads": 2}, {"steps": 3}])
def test_contenders_differ_in_their_optimizer_alone(
    tmp_path: Path, changed: dict[str, int]
) -> None:
    config = replace(Config(**{**BASE, "optimizer": "adamw"}), **changed)
    folder = folder_of(tmp_path, ["muon", "adamw"], "muon", "adamw", adamw=config)
    ((name, value),) = changed.items()
    with pytest.raises(UserError, match=f"adamw is not of the comparison.*: {name} is .*{value}"):
        configs_in(folder)


def test_a_comparison_needs_contenders() -> None:
    with pytest.raises(UserError, match="a comparison needs contenders"):
        contenders(BASE, [","])
