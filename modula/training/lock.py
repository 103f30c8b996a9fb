"""One process at a time in a folder: a lock that goes with its process, however that ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modula.errors import UserError, disk_errors_in_words

LOCK = ".lock"
PLACE = 1 << 30  # of the byte that Windows locks: behind the text, which others have to read

if sys.platform == "win32":
    import msvcrt

    def _take(file: BinaryIO) -> None:
        """Lock an open file; OSError if another process has it."""
        file.seek(PLACE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(file: BinaryIO) -> None:
        """Lock an open file; OSError if another process has it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder that no other process can lock meanwhile; it is made if it is not there.

    The operating system holds the lock on the open file `.lock` and lets it go with the process,
    so that what a killed one leaves locks nothing.  The file stays: two processes that make and
    remove it by turns could each lock a file of their own.

    Raises UserError that names the process which has the folder.
    """
    path = folder / LOCK
    with disk_errors_in_words("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with disk_errors_in_words("lock", folder):
        file = path.open("a+b")
    with file:
        try:
            _take(file)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"{folder} is in use by {_holder(file)}: wait until that has ended, or stop it"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot lock {folder}: {error.strerror or error}; take a folder on another disk"
            ) from error
        with disk_errors_in_words("lock", folder):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
        yield


def _holder(file: BinaryIO) -> str:
    file.seek(0)
    pid = file.read(20).decode("ascii", errors="replace")
    return f"process {pid}" if pid.isdigit() else "another process"
