"""Pages of docs/ with code are true: it prints what they show, and the files they name exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("one_weight", "declarations")
}
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", flags=re.DOTALL)
FILE = re.compile(r"`((?:duality|kernels|modula|norms|manifolds)/[\w/]*(?:\.py)?)`")
FILES = sorted({file for page in PAGES.values() for file in FILE.findall(page)})


@pytest.mark.parametrize("page", PAGES)
def test_each_block_prints_what_is_shown_below_it(page: str) -> None:
    names: dict[str, object] = {"__name__": page}
    blocks = BLOCK.findall(PAGES[page])
    assert len(blocks) > 1
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page}.md", "exec", dont_inherit=True), names)
        assert printed.getvalue() == shown


@pytest.mark.parametrize("file", FILES)
def test_named_files_exist(file: str) -> None:
    assert (ROOT / file).exists()


def test_the_whole_way_is_named() -> None:
    assert len(FILES) > 15
