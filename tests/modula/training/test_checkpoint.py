"""Whatever stops a save, at whatever moment, the newest checkpoint there is whole and right."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from modula.errors import UserError
from modula.training import checkpoint
from modula.training.checkpoint import Checkpoint, load_newest, place, save, steps_in


def made(step: int) -> Checkpoint:
    shared = torch.full((2, 3), float(step))
    return Checkpoint(
        step=step,
        about={"seconds": step / 3, "sha256": "abc"},
        weights={"a": shared, "tied": shared, "turned": torch.arange(6.0).view(2, 3).mT},
        state={"optimizer": {"state": {0: {"m": torch.ones(3) / 3}}}, "rates": [0.1, step]},
    )


def assert_same(found: Checkpoint | None, wanted: Checkpoint) -> None:
    assert found is not None
    assert (found.step, found.about) == (wanted.step, wanted.about)
    torch.testing.assert_close(found.weights, wanted.weights, rtol=0, atol=0)
    torch.testing.assert_close(found.state, wanted.state, rtol=0, atol=0)


def test_what_is_saved_is_loaded_exactly(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    save(tmp_path, made(3))
    assert_same(load_newest(tmp_path), made(3))


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save(tmp_path, made(step))
    assert steps_in(tmp_path) == [2, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


class Killed(BaseException):
    """The process ends here: nothing catches it, nothing is tidied."""


MOMENTS = [
    (module, name)
    for module, names in (
        (os, ("replace", "fsync")),
        (Path, ("open", "mkdir")),
        (shutil, ("rmtree",)),
    )
    for name in names
]


def failing(real: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    calls = iter(range(10**6))

    def stand_in(*args: Any, **options: Any) -> Any:
        if next(calls) >= at:
            raise error
        return real(*args, **options)

    return stand_in


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(("module", "name"), MOMENTS, ids=lambda x: getattr(x, "__name__", x))
def test_killed_at_any_moment_an_old_or_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, at: int
) -> None:
    for step in (1, 2):
        save(tmp_path, made(step))
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(getattr(module, name), at, Killed()))
        with suppress(Killed):  # raised at the fifth moment only where there are five
            save(tmp_path, made(3))
    newest = steps_in(tmp_path)[-1]
    assert newest in (2, 3)
    assert_same(load_newest(tmp_path), made(newest))
    save(tmp_path, made(3))  # and the next save makes good what the killed one left lying about
    assert_same(load_newest(tmp_path), made(3))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("at", range(3))
def test_on_a_full_disk_the_last_good_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    save(tmp_path, made(1))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(os.fsync, at, full))
        with pytest.raises(UserError, match="cannot write .*step-00000002: No space left"):
            save(tmp_path, made(2))
    assert steps_in(tmp_path) == [1]
    assert_same(load_newest(tmp_path), made(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_broken_one_is_said_with_the_way_back(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        save(tmp_path, made(step))
    path = place(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[0] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match="is broken: .*remove that folder to continue from step 1"):
        load_newest(tmp_path)
    shutil.rmtree(place(tmp_path, 2))
    assert_same(load_newest(tmp_path), made(1))


def test_a_foreign_one_is_said(tmp_path: Path) -> None:
    place(tmp_path, 1).mkdir()
    (place(tmp_path, 1) / checkpoint.MANIFEST).write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="is not a checkpoint of modula train"):
        load_newest(tmp_path)


@pytest.mark.parametrize(
    "name", ["step-1", "step-000000001", "step-" + "9" * 5000, "step-0000000²", "step-", "step-x"]
)
def test_a_folder_of_another_name_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    save(tmp_path, made(3))
    if len(name) < 255:
        (tmp_path / name).mkdir()
    assert checkpoint.NAME.fullmatch(name) is None
    assert_same(load_newest(tmp_path), made(3))


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", 4), ("step", "2"), ("step", -2), ("step", None), ("sha256", {}), ("sha256", "x"),
     ("about", None), ("about", 3)],
)  # fmt: skip
def test_a_forged_manifest_is_one_sentence(tmp_path: Path, key: str, value: Any) -> None:
    save(tmp_path, made(2))
    path = place(tmp_path, 2) / checkpoint.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_bytes()), key: value}))
    with pytest.raises(UserError, match="is broken: ") as caught:
        load_newest(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b'{"format": '])
def test_a_manifest_that_is_no_json_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, made(2))
    (place(tmp_path, 2) / checkpoint.MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match="manifest.json is missing or unreadable"):
        load_newest(tmp_path)


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"PK\x03\x04", b"\xff" * 100, b"{}" * 9])
def test_forged_tensors_are_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    save(tmp_path, made(2))
    (place(tmp_path, 2) / name).write_bytes(content)
    path = place(tmp_path, 2) / checkpoint.MANIFEST
    manifest = json.loads(path.read_bytes())
    manifest["sha256"][name] = sha256(content).hexdigest()
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is broken: ") as caught:
        load_newest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    save(tmp_path, Checkpoint(1, {}, {}, {"optimizer": Trap()}))
    with pytest.raises(UserError, match="is broken"):
        load_newest(tmp_path)
    assert not (tmp_path / "sprung").exists()
