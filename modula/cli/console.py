"""Shared by all commands: options left out, standard output, errors in one sentence."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console

from modula.errors import UserError
from modula.training.config import Config

IN_A_FILE = 170  # columns in a pipe or a log file, as many as the plan needs


def option(text: str, *names: str, key: str = "") -> Any:
    """An option that is None unless given, so that a config file can fill it in."""
    default = f" \\[default: {getattr(Config, key)}]" if key else ""
    return typer.Option(*names, help=text + default, show_default=False)


def prepare_streams() -> None:
    """Make standard streams that take every text: closed ones lead nowhere, marks replace letters.

    A closed stream's number would else be that of the next file, which gets what torch prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def screen() -> Console:
    """Standard output, as wide as the terminal or IN_A_FILE."""
    width = None if sys.stdout.isatty() else IN_A_FILE
    return Console(width=width, emoji=False)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print an error of the user's, or of the machine, to stderr as one sentence.

    The exit code is 2; 130 after Ctrl-C; 1, without a word, where nobody reads the output any more.
    """
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        leave(f"modula: {error}", 2)
    except KeyboardInterrupt as stopped:
        leave(f"\nmodula: stopped; {str(stopped) or 'nothing was kept'}", 130)
    except OSError as error:
        if error.errno == errno.EPIPE:
            leave("", 1)
        what = error.filename or "the standard output"
        leave(f"modula: cannot go on with {what}: {error.strerror or error}", 2)
    except MemoryError:
        leave("modula: the memory of this machine is used up: take smaller sizes", 2)


def leave(said: str, code: int) -> NoReturn:
    """Say it on stderr and exit, without another try to print what stdout could not take."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if said:
        typer.echo(said, err=True)
    raise SystemExit(code) from None
