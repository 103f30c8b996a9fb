"""A replaced file is the old or the new one, whatever stops the writing and wherever."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from modula.errors import UserError
from modula.training.files import replace_file


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    ("module", "name"),
    [(os, "replace"), (os, "fsync"), (os, "open"), (os, "close"), (Path, "open"), (Path, "unlink")],
)
def test_killed_at_any_operation_it_is_old_or_new_and_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, at: int
) -> None:
    path = tmp_path / "it"
    replace_file(path, b"old")
    real, calls = getattr(module, name), iter(range(100))

    def stand_in(*args: Any, **options: Any) -> Any:
        if next(calls) >= at:
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(module, name, stand_in)
        replace_file(path, b"new")
    assert path.read_bytes() in (b"old", b"new")
    replace_file(path, b"third")
    assert path.read_bytes() == b"third"
    assert [each.name for each in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("kind", ["a folder", "below a file", "a loop of links", "a long name"])
def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("n" * 300 if kind == "a long name" else "it")
    if kind == "a folder":
        path.mkdir()
    elif kind == "below a file":
        path.touch()
        path = path / "sub"
    elif kind == "a loop of links":
        path.symlink_to(path)
        path = path / "sub"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="cannot write ") as caught:
        replace_file(path, b"new")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
