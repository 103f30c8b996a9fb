"""Build what a package index takes, from the last commit.  Standard library and setuptools only.

    python .ci/dist.py https://github.com/OWNER/modula [--out dist]

The README's links and pictures are relative, so that they work in every clone; on a package index
they lead nowhere.  Here they get the address of the repository, then the sdist and the wheel are
built from that copy.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^]\n]*)\]\((?!https?:|#)([^)\s]+)\)")
BUILD = """
import sys
from setuptools import build_meta
build_meta.build_sdist(sys.argv[1]), build_meta.build_wheel(sys.argv[1])
"""


def absolute(text: str, url: str) -> str:
    """Markdown whose relative links lead into the repository at `url`, pictures to their bytes.

    >>> absolute("![a](b.png) and [c](d.md#e), [f](https://g)", "https://github.com/o/m")
    '![a](https://github.com/o/m/raw/HEAD/b.png) and [c](https://github.com/o/m/blob/HEAD/d.md#e), [f](https://g)'
    """

    def replaced(link: re.Match[str]) -> str:
        mark, words, path = link.groups()
        return f"{mark}[{words}]({url.rstrip('/')}/{'raw' if mark else 'blob'}/HEAD/{path})"

    return LINK.sub(replaced, text)


def build(url: str, out: Path) -> None:
    """Put sdist and wheel of the last commit into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="tar")
        readme = Path(folder) / "README.md"
        readme.write_text(absolute(readme.read_text(encoding="utf-8"), url), encoding="utf-8")
        command = [sys.executable, "-c", BUILD, str(out.resolve())]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Build sdist and wheel for a package index.")
    parser.add_argument("url", help="of the repository, such as https://github.com/OWNER/modula")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    if not re.fullmatch(r"https://[^\s/]+/\S+", arguments.url):
        print(f"the address of a repository begins with https://HOST/, not {arguments.url!r}")
        return 2
    build(arguments.url, arguments.out)
    print("\n".join(str(path) for path in sorted(arguments.out.iterdir())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
