"""Measurements of a run: one JSON line per step."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType

from modula.errors import UserError, disk_errors_in_words
from modula.norms.checks import is_kind
from modula.training.files import replace_file


@dataclass(frozen=True)
class Record:
    """Measurements of one step.

    step               counted from 1
    loss               nats per byte on the step's batch, before its update
    lr                 the learning rate that the update really used
    seconds            spent in training steps so far; validation and checkpoints not counted
    tokens_per_second  of this step alone
    val_loss           nats per byte on the fixed validation windows, after the update
    update_norms       how far each weight moved, in its own declared norm
    """

    step: int
    loss: float
    lr: float
    seconds: float
    tokens_per_second: float
    val_loss: float | None = None
    update_norms: dict[str, float] | None = None


def to_line(record: Record) -> str:
    """The record as one line of JSON, without missing values."""
    present = {key: value for key, value in asdict(record).items() if value is not None}
    return json.dumps(present) + "\n"


def read_records(path: Path) -> list[Record]:
    """Every whole line of a metrics file; a line half written when the process died is left out."""
    return list(_whole_records(path)) if path.exists() else []


def _whole_records(path: Path) -> Iterator[Record]:
    with disk_errors_in_words("read", path), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                return
            values = [(getattr(record, field.name), field.type) for field in fields(Record)]
            if not all(value != value or is_kind(value, kind) for value, kind in values):
                return
            yield record


class MetricsFile:
    """An open metrics file: keeps the lines up to `step`, forgets later ones, appends new ones.

    Raises UserError where those up to `step` are not all there: they would be lost.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [record for record in read_records(path) if record.step <= step]
        steps = [record.step for record in kept]
        if steps != list(range(1, step + 1)):
            line = next((i for i, found in enumerate(steps, 1) if i != found), len(steps) + 1)
            raise UserError(
                f"{path} has no record of step {line} in line {line}, and the checkpoint is of "
                f"step {step}: mend that line, or begin a new run"
            )
        replace_file(path, "".join(map(to_line, kept)).encode())
        with disk_errors_in_words("write", path):
            self._file = path.open("a", encoding="utf-8", newline="\n")

    def append(self, record: Record) -> None:
        """Add one line and hand it to the operating system: it outlives a killed process."""
        with disk_errors_in_words("write", self.path):
            self._file.write(to_line(record))
            self._file.flush()

    def sync(self) -> None:
        """Wait until the disk has every line: it outlives a power cut."""
        with disk_errors_in_words("write", self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; on a full disk the lines it could not take are lost, not the rest."""
        with disk_errors_in_words("write", self.path):
            self._file.close()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
