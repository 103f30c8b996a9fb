"""Errors of the user's making, told in one sentence."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

# What torch and this package raise for wrong arguments.
REFUSALS = (ValueError, TypeError, RuntimeError)


class UserError(ValueError):
    """Unusable input; the message is one sentence that says what would work."""


class Diverged(UserError):
    """A training run stopped at a loss or weight that is not finite."""


def nearest(word: str, known: Iterable[str], count: int = 2, cutoff: float = 0.5) -> list[str]:
    """At most `count` known words that are like an unknown one, the nearest first."""
    return get_close_matches(word, known, count, cutoff)


def suggest(word: str, known: Iterable[str]) -> str:
    """The known words nearest to an unknown one, as the end of an error message.

    >>> suggest("muno", ["muon", "lion"])
    'did you mean muon? (known: muon, lion)'
    """
    known = list(known)
    near = nearest(word, known)
    question = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{question}(known: {', '.join(known)})"


def shortened(names: Sequence[str], most: int = 8) -> str:
    """The names, or the first of them and how many more there are.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def disk_errors_in_words(verb: str, path: Path) -> Iterator[None]:
    """Turn an OSError into the sentence "cannot VERB PATH: reason"."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {verb} {path}: {error.strerror or error}") from error


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Begin the message of a ValueError raised inside with the name of what it is about."""
    try:
        yield
    except ValueError as error:
        error.args = (f"{name}: {error}",)
        raise


@contextmanager
def refusals_in_words(
    beginning: str = "", kinds: tuple[type[Exception], ...] = REFUSALS
) -> Iterator[None]:
    """Turn errors of a layer, an optimizer or torch into a UserError of one line.

    kinds  of errors that are turned
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        said = " ".join(str(error).split())
        if isinstance(error, LookupError) or not said:
            said = repr(error)  # of a KeyError the text is the key alone
        raise UserError(beginning + said) from error
