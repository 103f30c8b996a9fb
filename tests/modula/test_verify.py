"""modula verify, as a person uses it: certificates with marks, broken laws, refusals."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from modula import verify
from modula.cli import main as cli
from modula.cli.main import app
from modula.duality import Certificate
from modula.laws import Broken, broken_laws, manifold_laws, norm_laws
from modula.manifolds import SPD, Implicit, Manifold, Sphere
from modula.norms import Frobenius, FromDual, Norm


def modula(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_verify_certifies_every_pair_and_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "SHAPES", ((7, 4),))
    passed = modula("verify")
    assert passed.exit_code == 0, passed.stdout
    assert "Stiefel()" in passed.stdout and "FAIL" not in passed.stdout
    assert "Implicit(unit_rows)" in passed.stdout and "FromDual(spectral_" in passed.stdout
    assert passed.stdout.count("exact") > 20
    one = ("--norm", "L2()", "--manifold", "Sphere(ndim=2)", "--shape", "4x3")
    assert modula("verify", *one, "--tolerance", "-1").exit_code == 1


def test_verify_tries_one_pair_on_every_kind_of_gradient() -> None:
    shown = modula(
        "verify", "--norm", "Rows(L2())", "--manifold", "Oblique('rows')", "--shape", "5x4"
    )
    assert shown.exit_code == 0
    for word in ("Gaussian", "low rank", "ill-conditioned", "tiny", "huge", "zero", "bfloat16"):
        assert word in shown.output


def test_verify_tells_which_law_a_norm_of_ones_own_breaks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from modula.norms import L2\n"
        "@dataclass(frozen=True, repr=False)\n"
        "class Half(L2):\n"
        "    def dual(self, g):\n"
        "        return super().dual(g) / 2\n"
    )
    shown = modula("verify", "--norm", f"{tmp_path}/mine.py:Half(2)", "--shape", "4x3")
    assert shown.exit_code == 1
    said = " ".join(shown.output.split())
    assert "<g, duality_map(g)> == dual(g) is missed by 0.5, for example on 1x1 g = [[" in said


def test_verify_tells_what_is_no_norm_with_the_smallest_counter_example() -> None:
    shown = modula("verify", "--norm", "FromDual(lambda g: g.square().sum())", "--shape", "4x3")
    assert shown.exit_code == 1
    said = " ".join(shown.output.split())
    assert "f(-2 g) == 2 f(g) is missed by 0.5, for example on 1x1 g = [[1]]" in said
    assert "f(g + h) <= f(g) + f(h) is missed by 0.5, for example on 1x1 g = [[1]], h =" in said


def test_a_law_is_tried_on_the_shape_itself_where_no_small_one_will_do() -> None:
    ones = torch.ones(9, dtype=torch.float64)

    def own(g: torch.Tensor) -> torch.Tensor:
        return (g @ ones).abs().sum() + g.norm()

    def squared(g: torch.Tensor) -> torch.Tensor:
        return own(g).square()

    (broken,) = broken_laws({"f": lambda x, _: 0 * squared(x) + 1}, (10, 9))
    assert broken.example["x"].shape == (10, 9)
    assert "f(-2 g) == 2 f(g)" in map(law_of, broken_laws(norm_laws(FromDual(squared)), (10, 9)))
    assert not list(broken_laws(norm_laws(FromDual(own)), (10, 9)))


def law_of(broken: Broken) -> str:
    return broken.law


def test_verify_tells_which_law_a_manifold_of_ones_own_breaks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from modula.manifolds import Stiefel\n"
        "@dataclass(frozen=True, repr=False)\n"
        "class Narrow(Stiefel):\n"
        "    def to_tangent(self, x, v):\n"
        "        return v - x @ (x.mT @ v)\n"
    )
    shown = modula("verify", "--manifold", f"{tmp_path}/mine.py:Narrow()", "--shape", "64x32")
    assert shown.exit_code == 1
    said = " ".join(shown.output.split())
    assert "to_tangent keeps what leads along the manifold is missed by" in said
    assert "for example on 2x2 x = [[" in said
    assert "residual" not in said  # the other laws hold


def test_verify_all_tries_a_norm_on_every_manifold_in_every_precision() -> None:
    shown = modula("verify", "--norm", "RMS()", "--all", "--shape", "5x4")
    assert shown.exit_code == 0, shown.output
    assert "RMS()" in shown.output and "Rows" not in shown.output
    for word in ("Euclidean()", "Stiefel()", "bfloat16", "huge"):
        assert word in shown.output
    assert "SPD" not in shown.output  # which has square points only


def test_verify_shows_what_a_direction_and_its_proof_cost() -> None:
    shown = modula("verify", "--norm", "Frobenius()", "--manifold", "Sphere(ndim=2)")
    assert "MFLOPs" in shown.output and "proof ms" in shown.output
    (row,) = verify.verify([Frobenius()], [Sphere(ndim=2)], [(64, 32)])
    assert f"{row.cost.flops / 1e6:.3g}" in shown.output
    assert row.certificate.seconds > 0


@pytest.mark.parametrize("norm", verify.NORMS, ids=str)
def test_no_norm_of_ours_breaks_a_law(norm: Norm) -> None:
    assert list(broken_laws(norm_laws(norm), (3, 2), corners=True)) == []


@pytest.mark.parametrize("manifold", [*verify.MANIFOLDS, SPD()], ids=str)
def test_no_manifold_of_ours_breaks_a_law(manifold: Manifold) -> None:
    assert list(broken_laws(manifold_laws(manifold), (3, 2))) == []
    if not isinstance(manifold, Implicit):  # it takes its time
        assert list(broken_laws(manifold_laws(manifold), (3, 3))) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--norm", "Spectrul()"), "name 'Spectrul' is not defined"),
        (("--norm", "Stiefel()"), "is no norm; write for example 'RMSToRMS()'"),
        (("--norm", "RMSToRMS()", "--shape", "64"), "a shape is written like 64x32"),
        (("--manifold", "Stiefel()", "--shape", "3x5"), "or declare Transposed(Stiefel())"),
        (("--norm", "RMSToRMS()", "--manifold", "Stiefel()", "--shape", "3x5"), "Transposed("),
        (("--norm", "FromDual(lambda g: g.abs().sum().item())"), "f is to give one number"),
        (("--norm", "FromDual(lambda g: g.sing())"), "no attribute 'sing'"),
        (("--norm", "FromDual(lambda g: g @ torch.ones(30))"), "cannot be tried on 64x32"),
        (("--norm", "KyFan(40)", "--shape", "64x32"), "use k = 32 or less"),
        (("--manifold", "Implicit(lambda w: w.sum() ** 2 + 1)", "--shape", "2x1"), "has no point"),
    ],
)
def test_verify_refuses_in_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    shown = modula("verify", *arguments)
    assert shown.exit_code == 2
    assert words in " ".join(shown.output.split())


def test_a_terminal_shows_how_far_the_proofs_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(
        cli, "Console", lambda **_: Console(file=seen, force_terminal=True, width=150)
    )
    rows = verify.verify_pair(Frobenius(), Sphere(ndim=2), (3, 2))
    assert len(app.told(rows)) == 18
    words = " ".join(seen.getvalue().split())
    assert (
        "18 proofs, the last: Frobenius() on Sphere(ndim=2), zero gradient in torch.bfloat16"
        in words
    )
    assert not app.broken_in_words("[mine]", norm_laws(Frobenius()), ((3, 2),))
    assert "trying [mine]" in seen.getvalue()


def test_a_gap_far_below_zero_is_no_proof() -> None:
    (row, *_) = verify.verify_pair(Frobenius(), Sphere(ndim=2), (3, 2), dtypes=(torch.float64,))
    graded = [
        verify.grade(replace(row, certificate=Certificate(1.0, 0.0, gap)), 0.1)
        for gap in (-1e-13, -2e-4, 0.01, 0.2)
    ]
    assert graded == ["exact", "close", "close", "FAIL"]


@pytest.mark.parametrize("norm", [(), ("--norm", "L2()")], ids=["every norm", "one norm"])
def test_rotations_have_no_direction_of_the_weight_to_certify(norm: tuple[str, ...]) -> None:
    shown = modula("verify", *norm, "--manifold", "Isospectral(rotations=Rotations(4))")
    assert shown.exit_code == 2
    assert "moves weights by rotations" in " ".join(shown.output.split())
