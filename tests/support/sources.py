"""Where the five packages are: every source file, the name it is imported by, and its classes."""

import importlib
import inspect
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("kernels", "norms", "manifolds", "duality")  # root folder X is imported as modula.X
FOLDERS = (*FLOORS, "modula")


def sources(folder: str) -> list[Path]:
    """Every .py file of a root folder, each once: not those behind the links in modula/."""
    here = ROOT / folder
    return sorted(path for path in here.rglob("*.py") if path.resolve().is_relative_to(here))


def package_name(directory: Path) -> str:
    """norms/ -> modula.norms,  modula/statistics/ -> modula.statistics"""
    parts = directory.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "modula" else ("modula", *parts))


def module_name(path: Path) -> str:
    """norms/base.py -> modula.norms.base,  norms/__init__.py -> modula.norms"""
    package = package_name(path.parent)
    return package if path.stem == "__init__" else f"{package}.{path.stem}"


SOURCES = [path for folder in FOLDERS for path in sources(folder)]
IMPORTABLE = [path for path in SOURCES if path.stem != "__main__"]  # that one starts the program


def concrete(base: type[T], folder: str) -> set[type[T]]:
    """Every concrete class in a root folder's files that derives from the base, however deeply."""
    for path in sources(folder):
        importlib.import_module(module_name(path))
    found = [base]
    for kind in found:
        found += kind.__subclasses__()
    package = package_name(ROOT / folder)
    return {k for k in found if not inspect.isabstract(k) and k.__module__.startswith(package)}
