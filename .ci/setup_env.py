"""Make .venv with everything the project needs, once.  Standard library only.

    python3 .ci/setup_env.py [--extras dev,docs] [--venv .venv]

torch is chosen in this order:
  1. the torch of the Python that runs this script, if it is new enough (a GPU image, a cluster's
     module): nothing is downloaded, the environment looks into that Python's packages;
  2. on Linux without an NVIDIA or AMD driver, the newest CPU build ("+cpu") that pip can see;
  3. the default build, which on Linux is the CUDA one.

A stamp in the environment remembers what was installed: a second run with the same
pyproject.toml and no new extras does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 9)
EXTRAS = ("dev", "docs", "triton")
DRIVERS = ("/dev/nvidia0", "/proc/driver/nvidia", "/dev/kfd")


class SetupError(Exception):
    """One sentence for the person at the keyboard."""


def say(text: str) -> None:
    """Print at once, so that the line stands above pip's own output."""
    print(f"[setup] {text}", flush=True)


def version(text: str) -> tuple[int, ...]:
    """ "2.13.0+cpu" -> (2, 13, 0)"""
    return tuple(int(number) for number in re.findall(r"\d+", text.split("+")[0])[:3])


def python_of(environment: Path) -> Path:
    """The interpreter inside a virtual environment."""
    windows = os.name == "nt"
    return environment / ("Scripts/python.exe" if windows else "bin/python")


def wanted(extras: set[str]) -> dict[str, object]:
    """What the stamp says after a complete installation."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return {"pyproject": digest, "root": str(ROOT), "extras": sorted(extras)}


def read_stamp(path: Path) -> dict[str, object]:
    """The stamp of the last complete installation, or {}."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def runs(python: Path, *arguments: str) -> bool:
    """True if that Python exists and runs this without complaint."""
    if not python.exists():
        return False
    return subprocess.run([python, *arguments], capture_output=True).returncode == 0


def restore_links() -> None:
    """Turn modula/X back into a link to ../X where git could only write a text file (Windows).

    An installed wheel needs no links; an editable install finds modula.kernels through one.
    """
    for text in (ROOT / "modula").iterdir():
        target = ROOT / text.name
        if text.is_symlink() or not (text.is_file() and target.is_dir()):
            continue
        say(f"{text.relative_to(ROOT)}: git left a text file here, making a link to {target}")
        text.unlink()
        try:
            text.symlink_to(Path("..") / text.name, target_is_directory=True)
        except OSError:  # links are a privilege on Windows, junctions are not
            import _winapi

            _winapi.CreateJunction(str(target), str(text))


def create(environment: Path) -> None:
    """An environment with pip in it, also where the system splits ensurepip off (Debian)."""
    say(f"making {environment} with Python {sys.version.split()[0]}")
    try:
        venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt", clear=True).create(environment)
    except subprocess.CalledProcessError:
        say("this Python has no ensurepip: pip installs itself into the environment")
        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt", clear=True).create(environment)
        target = ["--python", str(python_of(environment))]
        run([sys.executable, "-m", "pip", *target, "install", "-q", "pip"])


def run(command: list[str]) -> None:
    """Run it, its output on the screen; a failure becomes a SetupError."""
    if subprocess.run(command).returncode:
        raise SetupError(
            f"this command failed: {' '.join(command)}. Without a network, nothing needs to be "
            f"installed if {sys.executable} has the dependencies: run `python -m pytest` from here"
        )


def outer_torch() -> str | None:
    """Version of the running Python's torch, if there is one."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def look_into_outer(python: Path) -> None:
    """Let the environment see the packages of the running Python, after its own.

    --system-site-packages would show the base Python's, not those of an environment around us.
    """
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([python, "-c", query], text=True).strip()
    found = Path(str(importlib.metadata.distribution("torch").locate_file("")))
    paths = sysconfig.get_paths()
    folders = dict.fromkeys((paths["purelib"], paths["platlib"], str(found)))
    (Path(site) / "_outer.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")


def has_driver() -> bool:
    """True if a graphics card of NVIDIA or AMD could be used."""
    return shutil.which("nvidia-smi") is not None or any(os.path.exists(path) for path in DRIVERS)


def torch_requirement(python: Path) -> str:
    """What to ask pip for."""
    default = "torch>=" + ".".join(map(str, OLDEST_TORCH))
    if sys.platform != "linux" or has_driver():
        return default
    listing = subprocess.run(
        [python, "-m", "pip", "index", "versions", "torch"], capture_output=True, text=True
    ).stdout
    builds = re.findall(r"\d+\.\d+\.\d+\+cpu", listing)
    newest = max(builds, key=version, default="0")
    return f"torch=={newest}" if version(newest) >= OLDEST_TORCH else default


def provide_torch(python: Path, pip: list[str]) -> None:
    """Make `import torch` work in the environment, downloading only if nothing is there."""
    if runs(python, "-c", "import importlib.metadata as m; m.version('torch')"):
        return say("torch: keeping the one in the environment")
    outer = outer_torch()
    if outer and version(outer) >= OLDEST_TORCH:
        say(f"torch: keeping {outer} of {sys.executable}")
        return look_into_outer(python)
    requirement = torch_requirement(python)
    say(f"torch: installing {requirement}")
    run([*pip, requirement])


def install(environment: Path, extras: set[str]) -> None:
    """Environment, torch, then the project itself in editable form."""
    python = python_of(environment)
    if not runs(python, "-m", "pip", "--version"):
        create(environment)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    provide_torch(python, pip)
    project = f"{ROOT}[{','.join(sorted(extras))}]" if extras else str(ROOT)
    say(f"installing {project}")
    run([*pip, "-q", "-e", project])


def main() -> int:
    """Install what is missing; the exit code is 0 if all is there."""
    parser = argparse.ArgumentParser(description="Make .venv with everything the project needs.")
    parser.add_argument("--extras", default="", help=f"comma-separated: {', '.join(EXTRAS)}")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    arguments = parser.parse_args()
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        say(
            f"Python {needed} or newer is needed, this is {sys.version.split()[0]}: PYTHON=... make"
        )
        return 1
    environment = arguments.venv.absolute()
    asked = {extra.strip() for extra in arguments.extras.split(",")} - {""}
    if unknown := sorted(asked - set(EXTRAS)):
        # pip would only warn, and the environment be called ready.
        say(f"unknown extras {', '.join(unknown)}: choose of {', '.join(EXTRAS)}")
        return 2
    restore_links()
    stamp_file = environment / "installed.json"
    stamp = read_stamp(stamp_file)
    before = stamp.get("extras")
    extras = asked | set(before if isinstance(before, list) else [])
    if stamp == wanted(extras) and python_of(environment).exists():
        return 0
    start = time.monotonic()
    try:
        install(environment, extras)
    except (SetupError, OSError) as error:
        say(str(error))
        return 1
    stamp_file.write_text(json.dumps(wanted(extras)), encoding="utf-8")
    say(f"ready after {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
