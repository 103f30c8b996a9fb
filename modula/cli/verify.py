"""`modula verify`: certify derived directions, and try the laws of a user's norm or manifold."""

import ast
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

import modula.manifolds
import modula.norms
import modula.verify
from modula.cli.console import exit_on_user_error, option, screen
from modula.duality import Setting, derive
from modula.errors import UserError, refusals_in_words
from modula.laws import Law, broken_laws, manifold_laws, norm_laws
from modula.manifolds import Euclidean, Manifold
from modula.norms import Norm
from modula.verify import (
    DTYPES,
    GRADIENTS,
    MANIFOLDS,
    NORMS,
    Verified,
    grade,
    verify_pair,
    verify_table,
)


def verify(
    norm: Annotated[
        str | None, option('As "2 * RMSToRMS()" or FILE.py:NAME; all known ones if left out.')
    ] = None,
    manifold: Annotated[
        str | None,
        option('As "Stiefel()" or FILE.py:NAME; if left out, all, or Euclidean() beside --norm.'),
    ] = None,
    shape: Annotated[
        str | None,
        option("Of the weight, as 64x32; if left out, three shapes, or 64x32 of a pair."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="All manifolds, all kinds of gradient, all precisions."),
    ] = False,
    seed: Annotated[int, option("Of the random weights and gradients.  \\[default: 0]")] = 0,
    tolerance: Annotated[float, option("What a certificate may miss.  \\[default: 0.1]")] = 0.1,
) -> None:
    """Prove every derived direction: on random gradients, is it feasible and the steepest?

    Examples

    modula verify

    modula verify --norm "RMSToRMS()" --manifold "Stiefel()" --shape 64x32

    modula verify --norm "mine.py:MyNorm()" --all
    """
    with exit_on_user_error():
        norms = NORMS if norm is None else (on_matrices(parse(Norm, norm)),)
        manifolds = MANIFOLDS if norm is None or every else (Euclidean(),)
        if manifold is not None:
            manifolds = (parse(Manifold, manifold),)
        shapes = None if shape is None else (parse_shape(shape),)
        broken = [
            *(broken_in_words(norm, norm_laws(norms[0]), shapes, corners=True) if norm else ()),
            *(broken_in_words(manifold, manifold_laws(manifolds[0]), shapes) if manifold else ()),
        ]
        rows = [] if broken else proofs(norms, manifolds, shapes, seed, every)
        if rows:
            screen().print(verify_table(rows, tolerance))
        for law in broken:
            screen().print(law, highlight=False, markup=False, style="bold red")
    if broken or not all(grade(row, tolerance) != "FAIL" for row in rows):
        raise typer.Exit(1)


def parse(kind: type[Any], text: str) -> Any:
    """The norm or manifold that an expression makes: "2 * RMSToRMS()", or "FILE.py:EXPRESSION".

    The names of modula.norms, modula.manifolds and torch are known, after ":" those of the file.
    Raises UserError if it makes anything else.
    """
    names: dict[str, Any] = {**vars(modula.norms), **vars(modula.manifolds), "torch": torch}
    file, colon, expression = text.rpartition(".py:")
    try:
        if colon:
            names |= runpy.run_path(str(Path(f"{file}.py")))
        made = eval(compile(ast.parse(expression, mode="eval"), "<command line>", "eval"), names)
    except Exception as error:
        raise UserError(f"cannot make a {kind.__name__.lower()} of {text!r}: {error}") from error
    if not isinstance(made, kind):
        example = "RMSToRMS()" if kind is Norm else "Stiefel()"
        raise UserError(f"{text!r} is no {kind.__name__.lower()}; write for example {example!r}")
    return made


def parse_shape(text: str) -> tuple[int, int]:
    """(64, 32) of "64x32"."""
    extents = text.lower().split("x")
    if len(extents) != 2 or not all(extent.isdigit() and int(extent) for extent in extents):
        raise UserError(f"a shape is written like 64x32, not {text!r}")
    return int(extents[0]), int(extents[1])


def on_matrices(norm: Norm) -> Norm:
    """The norm as it measures a matrix: RMS() over all entries, not row by row."""
    with refusals_in_words():
        return norm.over(2)


Shapes = Sequence[tuple[int, int]] | None


def broken_in_words(
    who: str, laws: dict[str, Law], shapes: Shapes, *, corners: bool = False
) -> list[str]:
    """The laws that a norm or manifold of the user's breaks, each with a counter-example."""
    shape = (shapes or ((64, 32),))[0]
    with refusals_in_words(f"{who}: "), Console(stderr=True).status(f"trying {escape(who)}"):
        found = broken_laws(laws, shape, corners=corners)
        return [f"broken law of {who}: {each}" for each in found]


def proofs(
    norms: Sequence[Norm], manifolds: Sequence[Manifold], shapes: Shapes, seed: int, every: bool
) -> list[Verified]:
    """The certificates; one pair is always tried on everything."""
    everything = (tuple(GRADIENTS), DTYPES)
    if len(norms) == len(manifolds) == 1:
        with refusals_in_words():
            (shape,) = shapes or ((64, 32),)
            return told(verify_pair(norms[0], manifolds[0], shape, *everything, seed))
    kinds, dtypes = everything if every else (("Gaussian",), DTYPES[:1])
    with refusals_in_words():
        rows = told(modula.verify.verify(norms, manifolds, shapes, kinds, dtypes, seed))
    if not rows:
        if len(manifolds) == 1:
            with refusals_in_words():
                derive(Setting(norms[0], manifolds[0]), (shapes or ((64, 32),))[0])
        raise UserError(f"no manifold here has points of shape {shapes and shapes[0]}: try 64x32")
    return rows


def told(rows: Iterator[Verified]) -> list[Verified]:
    """All of them; a terminal shows meanwhile how far it is, even while stdout goes to a file."""
    found = list[Verified]()
    with Console(stderr=True).status("the first proof") as status:
        for row in rows:
            found.append(row)
            last = f"{row.norm} on {row.manifold}, {row.gradient} gradient in {row.dtype}"
            status.update(f"{len(found)} proofs, the last: {escape(last)}")
    return found
