"""Certificates taken while training: of the right thing, at the right time, and free in between."""

import copy
import logging
from math import isnan
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gradients import fill_gradients
from torch import Tensor, nn

import modula
from modula.duality import certificate, certify, derive, gap_of
from modula.duality.certificate import upper_bound
from modula.duality.setting.derive import Derived, derives
from modula.manifolds import Euclidean, Oblique, Sphere, Stiefel
from modula.norms import (
    L2,
    PSGD,
    Diagonal,
    Eigenbasis,
    Exact,
    InCoordinates,
    Kronecker,
    LayerMoments,
    Max,
    Quadratic,
    RMSToRMS,
    Scalar,
    Spectral,
)
from modula.norms.maps.linear import Along, Inverse
from modula.optimizer import certification
from modula.recipes import RECIPES
from modula.statistics import sampled_labels


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def train(optimizer: modula.SteepestDescent, net: nn.Module, *seeds: int) -> None:
    """Classification of random points, with all the passes that a metric may ask for."""
    dtype = next(net.parameters()).dtype
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # what perturbed() draws
        x = torch.randn(16, 6, generator=generator, dtype=dtype)
        optimizer.zero_grad()
        with optimizer.perturbed():
            for part in x.chunk(2):
                (F.cross_entropy(net(part), part[:, :3].argmax(-1)) / 2).backward()
        with optimizer.sampled():
            for part in x.chunk(2):
                logits = net(part)
                (F.cross_entropy(logits, sampled_labels(logits, generator)) / 2).backward()
        optimizer.step()


def run(optimizer: modula.SteepestDescent, net: nn.Module, steps: int) -> None:
    for seed in range(steps):
        fill_gradients(net, seed)
        optimizer.step()


def test_it_is_off_unless_asked_for() -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    run(optimizer, net, 3)
    assert optimizer.certificates == {}


# By recipe: the rules whose directions are passed over, and why.
PASSED_OVER: dict[str, dict[str, str]] = {
    "normuon": {"muon": "turned by RowMoments"},
    "adamuon": {"muon": "turned by EntryMoments"},
    "newton_muon": {"chain": "a chain, no descent guarantee"},
    "soap_muon": {"chain": "a chain, no descent guarantee"},
    "root_free": {"adam": "averaged"},
    "if_shampoo": {"preconditioned": "averaged"},
    "singd": {"preconditioned": "averaged"},
    "sophia": {"within": "Within(norm=Max(), radius=1.0)"},
    "ivon": {"posterior_mean": "the steepest in no norm"},
    "bias_corrected_adamw": {"cross_fitted": "the steepest in no norm"},
    "bias_corrected_sophia": {"within": "Within(norm=Max(), radius=1.0)"},
    "bias_corrected_shampoo": {"variance_corrected": "the steepest in no norm"},
    "poet": {"adam, rotating": "in the coordinates of rotations"},
}
EXACT = ("adam", "preconditioned", "gradient_descent", "sign_descent")


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("muon", 1e-5),
        ("modular", 1e-5),
        ("scion", 1e-5),
        ("clipped", 1e-5),
        ("newton_muon_sandwich", 1e-5),
    ],
)
def test_an_exact_direction_misses_rounding(name: str, tolerance: float) -> None:
    torch.manual_seed(0)
    gaps = []
    for accuracy in (None, modula.duality.Exact()):
        net = nn.Sequential(nn.Linear(6, 36), nn.Tanh(), nn.Linear(36, 64), nn.Linear(64, 3))
        watched = RECIPES[name](net, certify_every=1, accuracy=accuracy)
        train(watched, net, 0, 1)
        gaps.append(max(watched.certificates.values()))
    assert gaps[0] > 3 * tolerance and gaps[1] < tolerance


@pytest.mark.parametrize("name", [*RECIPES])
def test_looking_changes_nothing_and_finds_what_is_steepest(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    nets = network(), network()
    plain, watched = RECIPES[name](nets[0]), RECIPES[name](nets[1], certify_every=2)
    with caplog.at_level(logging.INFO, logger="modula.optimizer.certification"):
        for optimizer, net in zip((plain, watched), nets, strict=True):
            train(optimizer, net, 0, 1, 2, 3)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    passed_over = PASSED_OVER.get(name, {})
    rules = {row.rule for row in watched.plan.rows}
    assert set(watched.certificates) == rules - passed_over.keys()
    for rule, gap in watched.certificates.items():
        assert -1e-9 <= gap < (1e-9 if rule in EXACT else 0.15), rule
    for record in caplog.records:
        line = record.getMessage()
        assert all(f"{rule} not certified ({why})" in line for rule, why in passed_over.items())
        assert line.count("not certified") == len(passed_over)


@pytest.mark.parametrize("name", ["soap", "foof"])
def test_a_delayed_metric_is_looked_at_before_it_learns(name: str) -> None:
    """The coordinates after the step are others, in which the direction is not the steepest."""
    net = network()
    optimizer = RECIPES[name](net, certify_every=2, momentum=0.0, weight_decay=0.0)
    train(optimizer, net, 0)
    before = net[0].weight.detach().clone()
    train(optimizer, net, 1)
    direction, gradient = before - net[0].weight.detach(), net[0].weight.grad
    setting = optimizer._own.all[0].declaration.setting
    found = derive(setting, before.shape).measured
    norm = found.norm([optimizer.state[net[0].weight][name] for name in found.reads])
    after = certify(norm, Euclidean(), before, gradient, direction / norm(direction))
    assert optimizer.certificates["preconditioned"] < 1e-9
    assert after.gap > 1e-4


@pytest.mark.parametrize(
    "norm",
    [
        RMSToRMS().under(Kronecker(every=1)),
        Max(2).under(Diagonal()),
        L2(2).under(Kronecker(every=2)),
        Spectral().under(Kronecker(every=3, instant=False)),
        Spectral().under(Eigenbasis()),
        Spectral().under(PSGD()),
        Spectral().under(LayerMoments(damping=Exact(1e-2), every=1)),
        (2.0 * Max(2)).under(Scalar()),
    ],
    ids=str,
)
@pytest.mark.parametrize("manifold", [Euclidean(), Sphere(ndim=2)], ids=str)
def test_any_norm_in_any_coordinates_is_certified(norm: Any, manifold: Any) -> None:
    torch.manual_seed(0)
    net = nn.Linear(6, 3, bias=False).double()
    modula.declare(net, {"weight": modula.Geometry(norm, manifold)})
    optimizer = modula.SteepestDescent(net, 0.1, certify_every=1)
    train(optimizer, net, 0, 1, 2)
    (gap,) = optimizer.certificates.values()
    assert -1e-9 <= gap < 0.15


def test_what_state_was_rounded_to_is_what_is_certified() -> None:
    net = network().float()
    optimizer = RECIPES["adamw"](net, certify_every=1, state_dtype=torch.bfloat16)
    train(optimizer, net, 0, 1, 2)
    assert abs(optimizer.certificates["adam"]) < 1e-9


def test_the_momentum_is_certified_at_the_weight_before_the_step() -> None:
    torch.manual_seed(0)
    net = nn.Linear(5, 8, bias=False).double()
    modula.declare(net, {"weight": modula.Geometry(Max(2), Stiefel())})
    optimizer = modula.SteepestDescent(net, 0.3, certify_every=2)
    run(optimizer, net, 1)
    before = net.weight.detach().clone()
    state = {name: each.clone() for name, each in optimizer.state[net.weight].items()}
    fill_gradients(net, 7)
    optimizer.step()
    tensors = optimizer.plan["weight"].program.run(
        weight=before, gradient=net.weight.grad, lr=torch.tensor(0.0), **state
    )
    arguments = Max(2), Stiefel(), before, tensors["momentum"], tensors["direction"]
    found = certify(*arguments).gap
    assert found > 1e-6  # nothing else is so near by chance
    assert optimizer.certificates == {"general_solver": pytest.approx(found, rel=1e-9)}
    assert float(gap_of(*arguments)) == found


def test_one_line_a_look_names_the_worst_weight(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    optimizer = modula.recipes.muon(net, certify_every=3)
    with caplog.at_level(logging.INFO, logger="modula.optimizer.certification"):
        run(optimizer, net, 7)
    lines = [record.getMessage() for record in caplog.records]
    assert [each.split(",")[0] for each in lines] == ["step 3", "step 6"]
    assert "muon " in lines[0] and "weight)" in lines[0]
    assert "adam " in lines[0] and ".bias)" in lines[0]
    assert set(optimizer.certificates) == {"muon", "adam"}


def test_the_worst_is_kept_and_its_weight_named(caplog: pytest.LogCaptureFixture) -> None:
    """A rule that goes wrong on one weight of two: the share it misses, by hand."""

    class Lame(L2):
        """A norm of its own, so that the rule is for no other."""

    @derives(Lame)
    def lame(setting: Any, shape: Any) -> Derived:
        return Derived((), scale=1 / 5 if shape[0] == 2 else 1 / 10, direction="query")

    net = nn.ParameterDict({"a": torch.zeros(2), "b": torch.zeros(3)})
    declarations = {
        name: modula.duality.Declaration(
            modula.duality.Setting(Lame(1), momentum=modula.duality.NoMomentum())
        )
        for name in net
    }
    optimizer = modula.SteepestDescent(net, groups=[modula.Group(declarations)], certify_every=1)
    with caplog.at_level(logging.INFO, logger="modula.optimizer.certification"):
        for size in (1.0, 2.0):
            net["a"].grad = size * torch.tensor([1.5, 2.0])  # half of length 5
            net["b"].grad = torch.tensor([0.0, 6.0, 8.0])  # just of length 10
            optimizer.step()
    assert optimizer.certificates["lame"] == pytest.approx(0.5)
    assert "lame 5.0e-01 (a)" in caplog.records[0].getMessage()
    assert "lame 0.0e+00" in caplog.records[1].getMessage()


def certified_line(
    net: nn.Module, norm: Any, caplog: pytest.LogCaptureFixture
) -> tuple[float, str]:
    """The worst gap of one step under the norm, and the line that is logged of it."""
    declaration = modula.duality.Declaration(
        modula.duality.Setting(norm, momentum=modula.duality.NoMomentum())
    )
    names = dict.fromkeys((name for name, _ in net.named_parameters()), declaration)
    optimizer = modula.SteepestDescent(net, groups=[modula.Group(names)], certify_every=1)
    for weight in net.parameters():
        weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    with caplog.at_level(logging.INFO, logger="modula.optimizer.certification"):
        optimizer.step()
    (gap,) = optimizer.certificates.values()
    return gap, caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("value", "dual", "excess", "sides"),
    [
        (1.0, 0.5, 1.0, "2 dual(g) on the left, 1 dual(g) on the right"),
        (0.25, 1.0, 0.75, "1 dual(g) on the left, 0.25 dual(g) on the right"),
        (4.0, 0.1, 1.5, "2.5 dual(g) on the left, 1 dual(g) on the right"),
    ],
)
def test_a_norm_that_its_dual_contradicts_is_told(
    value: float, dual: float, excess: float, sides: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its gap, below or at zero, would hide behind that of any other weight."""

    class Wrong(L2):
        """A length whose value and dual norm are off by factors."""

        def __call__(self, x: Tensor) -> Tensor:
            return value * torch.linalg.vector_norm(x)

        def dual(self, g: Tensor) -> Tensor:
            return dual * torch.linalg.vector_norm(g)

    net = nn.ParameterDict({"a": torch.zeros(3, 2)})
    found, line = certified_line(net, Wrong(2), caplog)
    assert found == pytest.approx(excess)
    assert "(a: <g, t> <= dual(g) norm(t) is broken: " in line and sides in line


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("norm", [Spectral(), Max(2), L2(2)], ids=str)
def test_what_is_not_finite_is_told_and_has_no_gap(
    norm: Any, number: float, caplog: pytest.LogCaptureFixture
) -> None:
    net = nn.ParameterDict({"a": torch.zeros(3, 2), "b": torch.ones(3, 2)})
    net["b"].data[1, 1] = number
    found, line = certified_line(net, norm, caplog)
    assert isnan(found)
    assert " not finite (b)" in line


def test_the_steps_in_between_do_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    original = certification.Certification.certify
    net = network()
    optimizer = modula.recipes.muon(net, certify_every=4)

    def counted(self: Any, *arguments: Any) -> None:
        looks.append(self.steps)
        original(self, *arguments)

    monkeypatch.setattr(certification.Certification, "certify", counted)
    run(optimizer, net, 9)
    assert set(looks) == {4, 8}


UNKNOWN = Inverse(Along(torch.empty(4, 4, dtype=torch.float64, device="meta"), -1))


@pytest.mark.parametrize(
    "manifold", [Euclidean(), Sphere(ndim=2), Oblique("columns"), Stiefel()], ids=str
)
@pytest.mark.parametrize(
    "norm",
    [
        *(Max(2), Spectral(), 2 * RMSToRMS(), Quadratic(UNKNOWN)),
        *(InCoordinates(Max(2), UNKNOWN), InCoordinates(Spectral(), UNKNOWN)),
    ],
    ids=str,
)
def test_a_gap_is_found_without_looking_at_a_number(
    norm: Any, manifold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on "meta" have no numbers: what would make a GPU wait raises there."""
    monkeypatch.setattr(certificate, "FEWEST_ROUNDS", 6)
    monkeypatch.setattr(certificate, "MOST_ROUNDS", 6)
    weight, gradient, direction = torch.empty(3, 6, 4, device="meta")
    gap = gap_of(norm, manifold, weight, gradient, direction)
    assert (gap.shape, gap.dtype) == ((), torch.float64)
    with pytest.raises(RuntimeError):
        float(gap)


@pytest.mark.parametrize("name", ["modular", "adamw", "kfac", "soap", "newton_muon_sandwich"])
def test_no_log_no_reading(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With INFO off, the worst gaps stay tensors until somebody asks."""
    read: list[Tensor] = []
    original = Tensor.__float__

    def counted(self: Tensor) -> float:
        read.append(self)
        return original(self)

    monkeypatch.setattr(Tensor, "__float__", counted)
    counts = []
    for every in (None, 1):
        net = network()
        optimizer = RECIPES[name](net, certify_every=every)
        read.clear()
        train(optimizer, net, 0, 1)
        counts.append(len(read))  # of the counters of steps, which are on the host
    assert counts[0] == counts[1]
    assert optimizer.certificates
    assert len(read) == counts[1] + len(optimizer.certificates)


def test_weights_without_gradient_are_not_looked_at() -> None:
    net = network()
    optimizer = modula.recipes.modular(net, certify_every=1)
    fill_gradients(net, 0)
    net[0].bias.grad = net[2].bias.grad = None
    optimizer.step()
    assert set(optimizer.certificates) == {"muon"}


def test_a_copy_goes_on_counting_by_itself() -> None:
    net = network()
    optimizer = modula.recipes.modular(net, certify_every=2)
    run(optimizer, net, 3)
    twin_net, twin = copy.deepcopy((net, optimizer))
    before = optimizer.certificates
    for weight in twin_net.parameters():
        weight.grad = torch.randn_like(weight)
    twin.step()
    assert optimizer.certificates == before
    assert twin.certificates.keys() == before.keys()


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_every_is_a_number_of_steps(every: Any) -> None:
    with pytest.raises(ValueError, match="certify_every is a whole number of steps from 1 up"):
        modula.SteepestDescent(network(), certify_every=every)


def test_an_upper_bound_is_no_lower_than_any_tangent_of_norm_one() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    weight = Stiefel().project(weight)
    tangent = Stiefel().to_tangent(weight, gradient)
    bound = upper_bound(Max(2), Stiefel(), weight, tangent, tangent.new_tensor(0.0))
    others = torch.randn(300, 5, 3, generator=generator, dtype=torch.float64)
    others = Stiefel().to_tangent(weight, others + 3 * tangent)
    gains = (tangent * others).sum((-2, -1)) / Max(2)(others)
    assert float(gains.max()) <= float(bound)
    assert float(gains.max()) > 0.5 * float(bound)
