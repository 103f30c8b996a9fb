"""Fast directions miss what is said of them, exact ones miss rounding."""

import pytest
import torch

from modula.duality import Accuracy, Clip, Exact, Fast, Graft, Setting, Sharp, certify, derive
from modula.duality.setting.derive import rule_name
from modula.manifolds import Manifold, Stiefel, Transposed, UnitConditionNumber
from modula.manifolds.euclidean import Euclidean
from modula.norms import L2, RMS, Diagonal, Norm, RMSToRMS, Spectral

FUSED = RMSToRMS().on("(b o) i -> b o i", b=2)


def gap_and_norm(setting: Setting, shape: tuple[int, ...]) -> tuple[float, float]:
    torch.manual_seed(0)
    weight = setting.manifold.project(torch.randn(shape))
    gradient = torch.randn(shape)
    direction = derive(setting, shape).first_direction(weight, gradient)
    found = certify(setting.norm, setting.manifold, weight, gradient, direction)
    return found.gap, found.norm


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (RMSToRMS(), (40, 64)),
        (Spectral(), (33, 48)),
        (3.0 * Spectral(RMS(), L2()), (64, 40)),
        (FUSED, (96, 64)),
    ],
    ids=str,
)
def test_an_exact_direction_is_the_duality_map(norm: Norm, shape: tuple[int, int]) -> None:
    gap, length = gap_and_norm(Setting(norm), shape)
    assert length == pytest.approx(1.0587, abs=1e-3) and gap > 1e-3
    gap, length = gap_and_norm(Setting(norm, accuracy=Exact()), shape)
    assert abs(length - 1) < 1e-5 and gap < 1e-5


@pytest.mark.parametrize("potential", [Sharp(), Clip(2.0)], ids=str)
def test_other_lengths_follow_the_same_direction(potential) -> None:
    exact = derive(Setting(RMSToRMS(), potential=potential, accuracy=Exact()), (40, 64))
    assert exact.lines[0].op.name == "duality_map[RMSToRMS()]"


@pytest.mark.parametrize(
    ("manifold", "shape"),
    [
        (Stiefel(), (12, 6)),
        (Stiefel(), (9, 8)),
        (Transposed(Stiefel()), (6, 12)),
        (UnitConditionNumber(), (12, 6)),
    ],
    ids=str,
)
def test_on_manifolds_it_is_the_solvers(manifold: Manifold, shape: tuple[int, int]) -> None:
    assert gap_and_norm(Setting(Spectral(), manifold), shape)[0] > 1e-4
    gap, length = gap_and_norm(Setting(Spectral(), manifold, accuracy=Exact()), shape)
    assert gap < 1e-5 and abs(length - 1) < 1e-5


@pytest.mark.parametrize("accuracy", [Fast(), Exact()], ids=str)
def test_it_goes_through_metrics(accuracy: Accuracy) -> None:
    setting = Setting(RMSToRMS(), metric=Diagonal(), accuracy=accuracy)
    ops = {each.op.name for each in derive(setting, (40, 64)).lines}
    assert ("polar" in ops) == (accuracy == Fast())


def test_what_grafting_takes_the_length_of_is_as_exact() -> None:
    plain, graft = Setting(L2(2), Euclidean()), Graft(Setting(RMSToRMS()))
    for accuracy, name in ((Fast(), "polar"), (Exact(), "duality_map[RMSToRMS()]")):
        setting = Setting(L2(2), Euclidean(), accuracy=accuracy)
        derived = graft.applied(derive(plain, (40, 64)), setting, (40, 64))
        assert name in {each.op.name for each in derived.lines}


def test_it_is_no_part_of_what_is_printed_and_saved() -> None:
    assert repr(Setting(RMSToRMS(), accuracy=Exact())) == repr(Setting(RMSToRMS()))
    assert rule_name(Setting(RMSToRMS(), accuracy=Exact()), (4, 4)) == "exact_duality_map"


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs an Accuracy for accuracy, such as Fast\(\)"):
        Setting(RMSToRMS(), accuracy="exact")
