"""What is installed is what is here: one package `modula`, with every folder in it."""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from sources import FLOORS, FOLDERS, IMPORTABLE, ROOT, SOURCES, module_name, package_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
PACKAGES = sorted({package_name(path.parent) for path in SOURCES})

IMPORT_ALL = """
import importlib, pathlib, sys
here = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    assert here in pathlib.Path(module.__file__).resolve().parents, module.__file__
"""


def link_target(floor: str) -> str:
    """Where modula/<floor> points; a clone on Windows has the target as text, or a junction."""
    link = ROOT / "modula" / floor
    if link.is_symlink():
        return os.readlink(link)
    if link.is_file():
        return link.read_text(encoding="utf-8")
    return Path(os.path.relpath(link.resolve(), link.parent)).as_posix()


def copy_sources(target: Path, *, links: bool) -> Path:
    """What a build needs, with links in modula/ or, as a clone on Windows has, text instead."""
    for folder in FOLDERS:
        unwanted = shutil.ignore_patterns("__pycache__", *(FLOORS if folder == "modula" else ()))
        shutil.copytree(ROOT / folder, target / folder, ignore=unwanted)
    for floor in FLOORS:
        link = target / "modula" / floor
        link.symlink_to(f"../{floor}") if links else link.write_text(f"../{floor}")
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, target)
    return target


def build_wheel(source: Path, target: Path) -> zipfile.ZipFile:
    """Through the same hook that pip calls, but with the setuptools at hand: no network."""
    call = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", call, str(target)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel)


def can_build() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def script(name: str) -> ModuleType:
    """A script of .ci/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("extras", ["nope", "dev,nope", "Dev", "dev docs", "dev;docs"])
def test_unknown_extras_are_refused_before_anything_is_made(
    extras: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = script("setup_env")
    monkeypatch.setattr(sys, "argv", ["setup_env.py", "--extras", extras, "--venv", str(tmp_path)])
    monkeypatch.setattr(setup, "install", lambda *_: pytest.fail("it installs"))
    assert setup.main() == 2
    assert "unknown extras" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_extras_are_those_of_the_project() -> None:
    assert set(script("setup_env").EXTRAS) == set(PROJECT["project"]["optional-dependencies"])


def test_on_a_package_index_every_link_and_picture_of_the_readme_is_absolute() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    address = "https://example.org/o/modula"
    there = script("dist").absolute(readme, f"{address}/")
    links = re.findall(r"(!?)\[[^]\n]*\]\(([^)]+)\)", there)
    assert len(links) == len(re.findall(r"\]\(", readme)) > 8
    for mark, link in links:
        assert link.startswith("https://")
        kind = "raw" if mark else "blob"
        if link.startswith(address):
            assert (ROOT / link.removeprefix(f"{address}/{kind}/HEAD/").partition("#")[0]).exists()


@pytest.mark.skipif(not can_build(), reason="building an sdist needs setuptools>=77")
def test_sdist_is_what_a_build_needs_and_no_tests(tmp_path: Path) -> None:
    source = copy_sources(tmp_path / "source", links=False)
    shutil.copytree(ROOT / "tests", source / "tests")
    build = "import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", build, str(tmp_path)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert {name for name in names if name.endswith(".py")} == {
        path.relative_to(ROOT).as_posix() for path in SOURCES
    }
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "modula/py.typed"} <= names
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = build_wheel(unpacked, tmp_path / "wheel")
    assert sum(name.endswith(".py") for name in wheel.namelist()) == len(SOURCES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_is_listed(package: str) -> None:
    assert package in SETUPTOOLS["packages"], f"pyproject.toml: add {package} to packages"
    importlib.import_module(package)


@pytest.mark.parametrize("package", SETUPTOOLS["packages"])
def test_every_listed_package_exists(package: str) -> None:
    assert package in PACKAGES, f"pyproject.toml: {package} has no modules"


@pytest.mark.parametrize("floor", FLOORS)
def test_links_are_relative(floor: str) -> None:
    assert link_target(floor) == f"../{floor}"
    assert SETUPTOOLS["package-dir"][f"modula.{floor}"] == floor


def test_no_module_leaks_to_the_top() -> None:
    """Run elsewhere, only `modula` is importable: a bare `kernels` is another published package."""
    probe = f"import importlib.util as u; print([n for n in {FLOORS} if u.find_spec(n)])"
    command = [sys.executable, "-c", probe]
    found = subprocess.run(command, cwd=ROOT.anchor, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.skipif(not can_build(), reason="building a wheel needs setuptools>=77")
@pytest.mark.parametrize("links", [True, False], ids=["links", "text-in-place-of-links"])
def test_wheel(links: bool, tmp_path: Path) -> None:
    if links and os.name == "nt":
        pytest.skip("making links needs a privilege on Windows")
    source = copy_sources(tmp_path / "source", links=links)
    wheel = build_wheel(source, tmp_path / "wheel")
    modules = {name for name in wheel.namelist() if name.endswith(".py")}
    expected = {"/".join((*package_name(path.parent).split("."), path.name)) for path in SOURCES}
    assert modules == expected
    assert "modula/py.typed" in wheel.namelist()
    assert {name.split("/")[0].split("-")[0] for name in wheel.namelist()} == {"modula"}

    installed = (tmp_path / "installed").resolve()
    wheel.extractall(installed)
    names = [module_name(path) for path in IMPORTABLE if not path.stem.endswith("_triton")]
    loaded = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(installed), *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
