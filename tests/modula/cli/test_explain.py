"""modula explain, as a person uses it."""

from pathlib import Path

import pytest
from commands import modula, refused

from modula.recipes import RECIPES


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_explain_shows_the_plan_of_every_recipe(name: str) -> None:
    result = modula("explain", name, "--width", "16", "--heads", "2", "--save", "plan.html")
    assert result.exit_code == 0, result.output
    assert "head.weight" in result.stdout
    assert "head.weight" in Path("plan.html").read_text(encoding="utf-8")


def test_explain_refuses_what_it_cannot_do() -> None:
    assert "did you mean scion" in refused(modula("explain", "sion"))
    assert "of memory, and " in refused(modula("explain", "muon", "--width", "1000000"))
    assert "--save writes .html or .json" in refused(
        modula("explain", "muon", "--save", "plan.doc")
    )
