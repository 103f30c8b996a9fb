"""The benchmarks of a checkout: found, described, run."""

import ast
import subprocess
import sys
from pathlib import Path

from modula.errors import UserError, suggest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def find_benchmarks(folder: Path) -> dict[str, str]:
    """Name and first docstring line of every benchmark."""
    if not folder.is_dir():
        raise UserError(
            "benchmarks are not part of the installed package: "
            "run modula bench from a clone of the repository installed with pip install -e ."
        )
    found = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    return {path.stem: title_of(path) for path in found}


def title_of(path: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def run_benchmark(folder: Path, name: str, arguments: list[str]) -> int:
    """Run one benchmark in a Python of its own; its exit code."""
    known = find_benchmarks(folder)
    if name not in known:
        raise UserError(f"unknown benchmark {name!r}: {suggest(name, known)}")
    command = [sys.executable, str(folder / f"{name}.py"), *arguments]
    return subprocess.run(command, check=False).returncode
