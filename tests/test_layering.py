"""Imports point downwards only, and the floors below modula neither talk nor look around."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from sources import FLOORS, FOLDERS, ROOT, SOURCES, sources

MAY_IMPORT = {  # folder -> the folders below it
    "kernels": set(),
    "norms": set(),
    "manifolds": set(),
    "duality": {"kernels", "norms", "manifolds"},
    "modula": set(FLOORS),
}
QUIET = [path for floor in FLOORS for path in sources(floor)]


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names imported at any depth; a relative import keeps its leading dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{alias.name}" for alias in node.names)


def wrong_imports(source: str, folder: str) -> list[str]:
    """Imports that a file of `folder` must not have, each with what is wrong."""
    wrong = []
    for name in imported(ast.parse(source)):
        top, *rest = name.split(".")
        if not top:
            wrong.append(f"{name} is relative: write the full name, modula. ...")
        elif top in FLOORS:
            wrong.append(f"{name} is a bare name: write modula.{name}")
        elif top == "modula" and folder != "modula":
            floor = rest[0] if rest else "modula"
            if floor != folder and floor not in MAY_IMPORT[folder]:
                wrong.append(f"{name} is not below {folder}")
    return wrong


def noise(source: str) -> list[str]:
    """Calls of print and looks at the environment, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                found.append(f"line {node.lineno}: print")
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv"):
                found.append(f"line {node.lineno}: os.{node.attr}")
            case ast.ImportFrom(module="os", names=names):
                taken = {alias.name for alias in names} & {"environ", "getenv"}
                found += [f"line {node.lineno}: os.{name}" for name in sorted(taken)]
    return found


ROOMS = {  # of each folder that has some, from the lowest up: each imports from those before it
    "kernels": ("op", "precision", "rounding", "elementwise", "spectral", "tangent", "moments"),
    "duality": (
        *("program", "setting", "metrics", "rules", "declaration"),
        *("known_as", "plan", "certificate", "__init__"),
    ),
    "modula": (
        *("errors", "network", "statistics", "optimizer", "recipes", "training"),
        *("laws", "verify", "cli", "__init__", "__main__"),
    ),
}
IN_ROOMS = [path for folder in ROOMS for path in sources(folder)]


def upward(source: str, folder: str, room: str) -> list[str]:
    """Imports of a file in a room of a folder that lead to a room above its own."""
    rooms, start = ROOMS[folder], ["modula"] if folder == "modula" else ["modula", folder]
    parts = [name.split(".") for name in imported(ast.parse(source))]
    found = [
        each[len(start)] for each in parts if each[: len(start)] == start and each[len(start) :]
    ]
    return [each for each in found if each in rooms and rooms.index(each) > rooms.index(room)]


@pytest.mark.parametrize("path", IN_ROOMS, ids=label)
def test_rooms_import_downwards(path: Path) -> None:
    folder, room, *_ = path.relative_to(ROOT).parts
    assert upward(path.read_text(encoding="utf-8"), folder, room.removesuffix(".py")) == []


def test_an_import_of_a_higher_room_is_seen() -> None:
    assert upward("from modula.optimizer.param_groups import Group", "modula", "network")
    assert not upward("from modula.network.algebra import Module", "modula", "optimizer")
    assert upward("from modula.duality.rules import general", "duality", "setting") == ["rules"]
    assert upward("from modula.kernels.moments import root", "kernels", "spectral") == ["moments"]


def test_every_folder_has_sources() -> None:
    assert all(sources(folder) for folder in FOLDERS)


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_imports_point_downwards(path: Path) -> None:
    assert wrong_imports(path.read_text(encoding="utf-8"), path.relative_to(ROOT).parts[0]) == []


@pytest.mark.parametrize("path", QUIET, ids=label)
def test_no_printing_and_no_environment(path: Path) -> None:
    assert noise(path.read_text(encoding="utf-8")) == []


def test_kernels_is_a_namespace_package() -> None:
    """With the root on sys.path, transformers would take kernels/__init__.py for its own need."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("norms", "import modula"),
        ("norms", "from modula import manifolds"),
        ("norms", "from modula.kernels.op import Op"),
        ("manifolds", "def late():\n    import modula.norms.base"),
        ("kernels", "import modula.duality"),
        ("duality", "from modula.network.geometry import Geometry"),
        ("modula", "import norms"),
        ("modula", "from kernels.polar import polar"),
        ("duality", "from .rules import derives"),
    ],
)
def test_a_wrong_import_is_seen(folder: str, source: str) -> None:
    assert len(wrong_imports(source, folder)) == 1


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("norms", "import torch\nfrom modula.norms.base import Norm"),
        ("duality", "from modula.kernels.spectral.polar import polar\nfrom modula import norms"),
        ("modula", "import modula\nfrom modula.duality import plan"),
        ("kernels", "import kernels_of_somebody_else"),
    ],
)
def test_a_right_import_passes(folder: str, source: str) -> None:
    assert wrong_imports(source, folder) == []


@pytest.mark.parametrize(
    "source", ["print(1)", "x = os.environ['A']", "os.getenv('A')", "from os import environ, path"]
)
def test_noise_is_heard(source: str) -> None:
    assert len(noise(source)) == 1
