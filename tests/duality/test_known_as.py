"""Published names of declarations: one row of the table each, and names behind scalers."""

import pytest

from modula.duality import (
    Average,
    Clip,
    EntryMoments,
    Graft,
    HeavyBall,
    Hyperball,
    QueryStore,
    RowMoments,
    Scaler,
    Setting,
    Sharp,
    Unbiased,
    Within,
)
from modula.duality.known_as import known_as
from modula.manifolds import Isospectral, Oblique, Sphere, Stiefel
from modula.norms import L2, Diagonal, Kronecker, Max, RMSToRMS, Rows
from modula.norms.metrics.base import Memory

ADAM = Setting(L2(2), metric=Diagonal(), potential=Sharp(), momentum=Unbiased())
NAMES = [
    (Setting(L2(2), potential=Sharp()), "SGD"),
    (Setting(L2(2), potential=Sharp(), momentum=HeavyBall()), "SGD with momentum"),
    (Setting(Max(2), momentum=Average()), "sign descent"),
    (Setting(Max(2), momentum=QueryStore()), "Lion"),
    (Setting(RMSToRMS()), "Muon"),
    (Setting(2 * RMSToRMS().on("(h d) i -> h d i", h=2)), "Muon"),
    (Setting(Rows(L2())), "row-normalised"),
    (Setting(RMSToRMS(), potential=Clip()), "generalised clipping (GGNC)"),
    (Setting(RMSToRMS(), Stiefel()), "manifold Muon"),
    (Setting(L2(2), Sphere(ndim=2)), "hyperspherical descent"),
    (Setting(Rows(L2()), Oblique()), "oblique descent"),
    (Setting(RMSToRMS(), Isospectral()), "isospectral descent"),
    (ADAM, "Adam"),
    (Setting(L2(2), metric=Diagonal(memory=Memory(1.0)), potential=Sharp()), "AdaGrad"),
    (
        Setting(
            L2(2),
            metric=Diagonal(power=1.0, statistic="sampled_gradient"),
            potential=Within(Max(2)),
        ),
        "Sophia",
    ),
    (Setting(L2(2), metric=Kronecker(), potential=Sharp()), "KL-Shampoo"),
    (Setting(RMSToRMS(), metric=Diagonal()), "in the coordinates of Adam"),
]


@pytest.mark.parametrize(("setting", "name"), NAMES, ids=[name for _, name in NAMES])
def test_the_field_knows_it_as(setting: Setting, name: str) -> None:
    assert known_as(setting, decayed=False).endswith(name)


def test_decay_has_a_name_of_its_own() -> None:
    assert known_as(ADAM, decayed=True) == "AdamW"
    assert known_as(Setting(RMSToRMS()), decayed=True) == "Muon in a norm ball (Scion)"


@pytest.mark.parametrize(
    ("scaler", "name"),
    [
        (RowMoments(), "NorMuon"),
        (EntryMoments(), "AdaMuon"),
        (Hyperball(), "MuonH"),
        (Graft(ADAM), "Muon, grafted to Adam"),
    ],
    ids=str,
)
def test_a_scaler_changes_the_name(scaler: Scaler, name: str) -> None:
    assert known_as(Setting(RMSToRMS()), False, (scaler,)) == name
