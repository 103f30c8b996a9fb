"""Atomic file writes."""

import os
from pathlib import Path

from modula.errors import disk_errors_in_words

METRICS, COMPARISON = "metrics.jsonl", "comparison.json"  # a folder that has one is a run's


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see all of `data`, or the old file."""
    with disk_errors_in_words("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".new-{path.name}")
        try:
            write_synced(fresh, data)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        sync_folder(path.parent)
