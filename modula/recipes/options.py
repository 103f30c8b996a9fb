"""The decorator of recipes, which checks options by name and type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Any, NamedTuple, ParamSpec, cast, get_type_hints

from modula.duality import Accuracy, Clip, Fast, ShortStep
from modula.errors import suggest
from modula.network.declare import check_model
from modula.norms.checks import check_kind
from modula.optimizer.automatic import Automatic
from modula.optimizer.steepest_descent import SteepestDescent

Arguments = ParamSpec("Arguments")


class Option(NamedTuple):
    """Type and default of one option of a recipe."""

    kind: Any
    default: Any = None


# Of SteepestDescent, what every recipe hands on; the rest is said by its declarations.
HANDED_ON = {
    "potential": Option(Clip | ShortStep),  # any other is each weight's own
    "maximize": Option(bool, False),
    "accuracy": Option(Accuracy | None, Fast()),
    **dict.fromkeys(("on_nonfinite", "certify_every", "state_dtype", "process_group"), Option(Any)),
}

OPTIONS: dict[str, dict[str, Option]] = {}  # by name of the recipe


def checked(
    *through: Callable[..., Any], without: tuple[str, ...] = (), name: str = ""
) -> Callable[[Callable[Arguments, SteepestDescent]], Callable[Arguments, SteepestDescent]]:
    """Decorate a recipe: its arguments are checked before anything is built.

    through  what it gives those options to that it does not name: another recipe, or
             functions, besides SteepestDescent
    without  options that are given by the recipe itself
    name     of the recipe; that of the function if left out
    """

    def decorate(
        make: Callable[Arguments, SteepestDescent],
    ) -> Callable[Arguments, SteepestDescent]:
        called = name or make.__name__
        found = dict(_options_of(make))
        for each in through:
            found = (OPTIONS.get(each.__name__) or dict(_options_of(each))) | found
        found = found | {key: each for key, each in HANDED_ON.items() if key not in found}
        if "adamw_lr" not in found:  # one rate for the whole network, which it may do without
            found["lr"] = Option(found["lr"].kind | Automatic, found["lr"].default)
        OPTIONS[called] = {key: each for key, each in found.items() if key not in without}
        names = [*signature(make).parameters]

        @wraps(make)
        def refusing(*arguments: Arguments.args, **options: Arguments.kwargs) -> SteepestDescent:
            given = {**dict(zip(names, arguments, strict=False)), **_without_lists(options)}
            if "model" in given:
                check_model(f"recipes.{called}", given.pop("model"))
            _check(called, given)
            return make(*arguments, **cast(Any, _without_lists(options)))

        return refusing

    return decorate


def _check(name: str, given: Mapping[str, object]) -> None:
    """Raise TypeError for an option that the recipe of this name has not, ValueError for a value
    of another kind than the option's.
    """
    known = OPTIONS[name]
    for key, value in given.items():
        if key not in known:
            raise TypeError(f"recipes.{name} has no option {key!r}: {suggest(key, known)}")
        check_kind(f"recipes.{name}", key, value, *known[key])


def _options_of(function: Callable[..., Any]) -> Iterator[tuple[str, Option]]:
    """The arguments that are given by name, and the learning rate."""
    kinds = get_type_hints(function)
    for key, each in signature(function).parameters.items():
        if key == "lr" or each.kind is Parameter.KEYWORD_ONLY:
            yield key, Option(kinds[key], each.default)


def _without_lists(options: Mapping[str, object]) -> dict[str, object]:
    """Pairs may be given as lists, as they come out of a file."""
    return {key: tuple(x) if isinstance(x, list) else x for key, x in options.items()}
