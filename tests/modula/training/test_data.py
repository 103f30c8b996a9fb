"""Text is read in one order, split in one way, and drawn by seed and step alone."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modula.errors import UserError
from modula.training.data import (
    as_tokens,
    even_windows,
    flaw_of,
    load_text,
    random_windows,
    split,
    visible_files,
)


def as_bytes(tokens: torch.Tensor) -> bytes:
    return bytes(tokens.tolist())


def test_the_standard_library_is_found_and_has_no_tests_in_it() -> None:
    text = load_text()
    assert text.files > 100
    assert len(text.train) > 5 * len(text.validation) > 1_000_000
    assert load_text().sha256 == text.sha256


def test_ten_files_or_more_are_split_by_file(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"<{i:02}>")
    text = load_text(str(tmp_path))
    assert as_bytes(text.validation) == b"<09><19>"
    assert as_bytes(text.train) == b"".join(b"<%02d>" % i for i in range(20) if i % 10 != 9)
    everything = b"".join(b"<%02d>" % i for i in range(20))
    assert text.sha256 == sha256(everything).hexdigest()


def test_few_files_give_their_last_tenth_each() -> None:
    text = split("two", [b"a" * 20, b"b" * 10])
    assert as_bytes(text.train) == b"a" * 18 + b"b" * 9
    assert as_bytes(text.validation) == b"aab"


def test_a_folder_may_hold_other_things_too(tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("words, über and 漢字")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\x00")
    (tmp_path / ".hidden").write_text("secret")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("secret")
    text = load_text(str(tmp_path))
    assert text.files == 1
    assert as_bytes(text.train) + as_bytes(text.validation) == "words, über and 漢字".encode()


def test_what_runs_leave_in_a_folder_is_not_read(tmp_path: Path) -> None:
    for name in ("text.py", "runs/a/metrics.jsonl", "runs/a/config.toml", "b/comparison.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert visible_files(tmp_path) == [tmp_path / "text.py"]
    assert len(visible_files(tmp_path / "runs" / "a")) == 2


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"a\x00b", "NUL byte at position 1"), (b"ab\xff\xfe", "not UTF-8 at position 2")],
)
def test_a_binary_file_is_refused(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(UserError, match=part):
        load_text(str(tmp_path / "it"))


@pytest.mark.parametrize("content", [None, b"", b"\x00"])
def test_no_text_is_said(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "it").write_bytes(content)
    with pytest.raises(UserError, match="no text found"):
        load_text(str(tmp_path))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read .*nowhere.*No such file"):
        load_text(str(tmp_path / "nowhere"))


def test_a_context_longer_than_the_data_is_refused() -> None:
    text = split("one", [b"a" * 100])
    text.require(9)
    with pytest.raises(UserError, match="validation text of 10 bytes: use --context 9"):
        text.require(10)


@given(
    length=st.integers(2, 200),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**9),
    data=st.data(),
)
def test_windows_are_stretches_of_the_text_and_depend_on_seed_and_step_alone(
    length: int, seed: int, step: int, data: st.DataObject
) -> None:
    context = data.draw(st.integers(1, length - 1))
    tokens = torch.arange(length, dtype=torch.uint8)
    drawn = random_windows(tokens, context, 5, seed, step)
    torch.rand(3)  # the global generator has no part in it
    torch.testing.assert_close(random_windows(tokens, context, 5, seed, step), drawn)
    assert drawn.shape == (5, context + 1)
    assert drawn.dtype == torch.int64
    torch.testing.assert_close(drawn - drawn[:, :1], torch.arange(context + 1).expand(5, -1))
    assert drawn.max() < length


def test_steps_and_seeds_differ_and_every_place_is_reached() -> None:
    tokens = torch.arange(50, dtype=torch.uint8)
    draws = {
        (seed, step): random_windows(tokens, 10, 200, seed, step)[:, 0]
        for seed in range(2)
        for step in range(2)
    }
    assert len({tuple(starts.tolist()) for starts in draws.values()}) == 4
    assert set(draws[0, 0].tolist()) == set(range(40))


def test_validation_windows_span_the_text() -> None:
    windows = even_windows(torch.arange(101, dtype=torch.uint8), 10, 4)
    assert windows[:, 0].tolist() == [0, 30, 60, 90]
    assert windows[-1, -1] == 100


def test_nothing_is_an_empty_text() -> None:
    assert as_tokens([]).shape == (0,)
    assert as_tokens([]).dtype == torch.uint8
    assert flaw_of(b"") == ""
