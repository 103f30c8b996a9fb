"""Every example in a docstring is true, and everything public says what it is."""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

from sources import IMPORTABLE, ROOT, SOURCES, module_name

PUBLIC = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def undocumented(source: str) -> list[str]:
    """The module if it says nothing, and its public functions and classes that say nothing."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["the module"]
    named = [node for node in tree.body if isinstance(node, PUBLIC) and node.name[0] != "_"]
    return missing + [node.name for node in named if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", IMPORTABLE, ids=module_name)
def test_docstring_examples(path: Path) -> None:
    if path.stem.endswith("_triton"):  # a fused twin: imported only where Triton is
        pytest.importorskip("triton")
    module = importlib.import_module(module_name(path))
    # Otherwise an installed copy would be tested in place of these sources.
    assert Path(inspect.getfile(module)).resolve() == path
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_everything_public_has_a_docstring(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    empty_init = path.name == "__init__.py" and not text.strip()
    assert not empty_init, f"{path.relative_to(ROOT)} is empty: say what the package holds"
    assert undocumented(text) == []


def test_a_missing_docstring_is_seen() -> None:
    source = "class A:\n    x = 1\ndef b(): pass\ndef _c(): pass\nasync def d(): 'Text.'"
    assert undocumented(source) == ["the module", "A", "b"]
