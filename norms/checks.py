"""Whether what was given is of the kind that was asked for, and one sentence if it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from itertools import starmap, zip_longest
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor

LONGEST = 60  # letters of a value in a sentence
WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a text",
    NoneType: "None",
    Callable: "a function",
}


def check_kind(what: str, name: str, value: object, kind: Any, default: Any = None) -> None:
    """Raise ValueError unless the value is of this kind, a type as annotations write it.

    default  what would do, for the sentence

    >>> check_kind("Clip", "rho", "x", float, 1.0)
    Traceback (most recent call last):
    ValueError: Clip needs a number for rho, such as 1.0; got 'x'
    """
    if is_kind(value, kind):
        return
    such_as = "" if default is None else f", such as {shown(default)}"
    wanted = tuple(each for each in get_args(kind) or (kind,) if isinstance(each, type))
    if isinstance(value, type) and issubclass(value, wanted):
        such_as = f": write {value.__name__}(...) with its parentheses"
    raise ValueError(f"{what} needs {in_words(kind)} for {name}{such_as}; got {shown(value)}")


def check_fields(declared: Any) -> None:
    """Raise ValueError unless each field of a dataclass is of its declared kind."""
    kinds = _kinds(type(declared))  # type: ignore[arg-type]
    for field in fields(declared):
        default = None if field.default is MISSING else field.default
        value = getattr(declared, field.name)
        check_kind(type(declared).__name__, field.name, value, kinds.get(field.name, Any), default)


@cache
def _kinds(declared: type) -> dict[str, Any]:
    try:
        return get_type_hints(declared)
    except (NameError, AttributeError):  # of a name that only a type checker imports
        return {}


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError for a negative or non-finite number."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be zero or positive, and finite; got {value}")


def check_beta(name: str, value: float) -> None:
    """Raise ValueError unless the coefficient of an average is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1); got {value}")


def is_kind(value: object, kind: Any) -> bool:
    """Whether a value is of a kind.  A NaN is no number, and neither is True."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(is_kind(value, part) for part in parts)
    if parts and origin in (tuple, Sequence, Mapping):
        fits = isinstance(value, origin)
        return fits and all(starmap(is_kind, _contents(value, origin, parts)))
    if origin is float:
        return _is_real(value) and value == value
    if origin is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    # What is no type, such as a TypeVar, is not looked at.
    return origin is Any or not isinstance(origin, type) or _is_instance(value, origin)


def _is_instance(value: object, kind: type) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # of a Protocol or a TypedDict, whose instances nobody can tell
        return True


def _contents(value: Any, origin: Any, parts: tuple[Any, ...]) -> Iterable[tuple[object, Any]]:
    """What a container holds, and for each the kind it has to be of."""
    if origin is Mapping:
        return [pair for item in value.items() for pair in zip(item, parts, strict=True)]
    if origin is Sequence or parts[1:] == (...,):
        return [(each, parts[0]) for each in value]
    return zip_longest(value, parts, fillvalue=NoneType)


def _is_real(value: object) -> bool:
    if isinstance(value, Tensor):  # as torch's own optimizers take a learning rate
        return value.ndim == 0 and value.is_floating_point()
    return isinstance(value, Real) and not isinstance(value, bool)


def in_words(kind: Any) -> str:
    """What a kind is called in a sentence.

    >>> in_words(tuple[float, float] | None)
    '(a number, a number) or None'
    """
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, parts))
    if origin is tuple and parts[1:] == (...,):
        return f"a tuple of which each is {in_words(parts[0])}"
    if origin is Sequence and parts:
        return f"a list of which each is {in_words(parts[0])}"
    if origin is Mapping and parts:
        return f"a mapping from {in_words(parts[0])} to {in_words(parts[1])}"
    if origin is tuple:
        return f"({', '.join(map(in_words, parts))})"
    name = getattr(origin, "__name__", str(origin))
    return WORDS.get(origin, f"{'an' if name[0] in 'AEIOU' else 'a'} {name}")


def shown(value: object) -> str:
    """A value in one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
