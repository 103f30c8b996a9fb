"""Training text as bytes: loading, splitting, and the windows of each step."""

import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from modula.errors import UserError, disk_errors_in_words
from modula.training.files import COMPARISON, METRICS

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
)
VALIDATION_SHARE = 10  # one file in ten, or the last tenth of each where there are fewer than ten


@dataclass(frozen=True)
class Text:
    """Training and validation bytes: uint8 vectors.

    source  what was read, in words
    files   how many files it came from
    sha256  of all bytes read, files in order: two runs on equal text print equal sums
    """

    source: str
    files: int
    sha256: str
    train: Tensor
    validation: Tensor

    def __str__(self) -> str:
        return (
            f"{self.source}: {self.files} files, {len(self.train):,} bytes to train on, "
            f"{len(self.validation):,} to validate, sha256 {self.sha256[:16]}"
        )

    def require(self, context: int) -> None:
        """Refuse a context that does not fit into both parts with one byte to predict."""
        for part, tokens in (("training", self.train), ("validation", self.validation)):
            if len(tokens) <= context:
                raise UserError(
                    f"a context of {context} bytes is longer than the {part} text of "
                    f"{len(tokens)} bytes: use --context {max(len(tokens) - 1, 1)} or less, "
                    f"or give more text"
                )


def load_text(data: str = "") -> Text:
    """Read a file or every text file of a folder; by default Python's own standard library."""
    if not data:
        return split("Python standard library", standard_library())
    path = Path(data)
    with disk_errors_in_words("read", path):
        if path.is_dir():
            return split(data, (text for text in map(text_of, visible_files(path)) if text))
        return split(data, [_text_or_error(path)])


def standard_library() -> Iterator[bytes]:
    """The sources of this Python, without its tests and bundled tools, in alphabetical order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts) and (text := text_of(path)):
            yield text


def visible_files(folder: Path) -> list[Path]:
    """Every file below a folder in alphabetical order, without hidden ones and results of runs.

    Results that grow while they are read would make a run that cannot be resumed.
    """
    paths = [path for path in folder.rglob("*") if path.is_file()]
    runs = {path.parent for path in paths if path.name in (METRICS, COMPARISON)} - {folder}
    return sorted(
        path
        for path in paths
        if runs.isdisjoint(path.parents)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def flaw_of(content: bytes) -> str:
    """The reason why bytes are not text; "" for text."""
    if 0 in content:
        return f"it has a NUL byte at position {content.index(0)}"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 at position {error.start}"
    return ""


def text_of(path: Path) -> bytes | None:
    """The bytes of a text file, None for a binary or unreadable one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return None if flaw_of(content) else content


def _text_or_error(path: Path) -> bytes:
    content = path.read_bytes()
    if flaw := flaw_of(content):
        raise UserError(f"{path} is not a text file: {flaw}; give UTF-8 text")
    return content


def split(source: str, documents: Iterable[bytes]) -> Text:
    """Divide documents into training and validation text, always in the same way."""
    documents = [document for document in documents if document]
    if not documents:
        raise UserError(f"no text found in {source}: give a UTF-8 text file or a folder of them")
    if len(documents) >= VALIDATION_SHARE:
        validation = documents[VALIDATION_SHARE - 1 :: VALIDATION_SHARE]
        train = [d for i, d in enumerate(documents) if (i + 1) % VALIDATION_SHARE]
    else:
        cuts = [len(d) - len(d) // VALIDATION_SHARE for d in documents]
        train = [d[:cut] for d, cut in zip(documents, cuts, strict=True)]
        validation = [d[cut:] for d, cut in zip(documents, cuts, strict=True)]
    total = sha256(b"".join(documents)).hexdigest()
    return Text(source, len(documents), total, as_tokens(train), as_tokens(validation))


def as_tokens(documents: Iterable[bytes]) -> Tensor:
    """Documents concatenated: uint8 (bytes,)."""
    content = bytearray(b"".join(documents))
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0).byte()


def random_windows(tokens: Tensor, context: int, count: int, seed: int, step: int) -> Tensor:
    """The windows of one step: int64 (count, context + 1), a pure function of (seed, step)."""
    # A hash, as neighbouring seeds of a generator may give correlated first draws.
    digest = sha256(f"{seed}/{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
    starts = torch.randint(len(tokens) - context, (count,), generator=generator)
    return windows(tokens, context, starts)


def even_windows(tokens: Tensor, context: int, count: int) -> Tensor:
    """The same windows every time, spread evenly over the text: int64 (count, context + 1)."""
    last = len(tokens) - context - 1
    return windows(tokens, context, torch.linspace(0, last, count, dtype=torch.float64).long())


def windows(tokens: Tensor, context: int, starts: Tensor) -> Tensor:
    """tokens[start : start + context + 1] for every start, as int64."""
    return tokens[starts[:, None] + torch.arange(context + 1)].long()
