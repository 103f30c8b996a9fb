"""Every example runs, briefly, and ends in a table or a picture."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9]*.py"))
REFERENCE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


def test_examples_are_numbered_without_gaps() -> None:
    assert EXAMPLES, "examples/ has no numbered script"
    numbers = [int(path.name.split("_")[0]) for path in EXAMPLES]
    assert numbers == list(range(1, len(EXAMPLES) + 1))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))["main"](steps=3)
    assert capsys.readouterr().out.strip() or any(tmp_path.iterdir()), "no table and no picture"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_example_imports_from_is_in_the_reference(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for module in re.findall(r"^(?:from|import) (modula[.\w]*)", text, flags=re.MULTILINE):
        assert f"automodule:: {module}\n" in REFERENCE, module
