"""modular and clipped against published curves and formulas as plain loops."""

from collections.abc import Callable
from math import inf

import pytest
import torch
import torch.nn.functional as F
from published_polynomials import YOU6
from torch import Tensor, nn

import modula
from modula.duality import Clip, Exact, NoRule, ShortStep
from modula.kernels.spectral.polar import exact_polar, polar
from modula.manifolds import Sphere
from modula.norms import RMS, Max, RMSToRMS

Make = Callable[[nn.Module], modula.SteepestDescent]


def linear(width: int = 4) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, width, bias=False, dtype=torch.float64)


def signs() -> nn.Module:
    """Two weights whose duality map is exact: signs and lengths."""
    torch.manual_seed(0)
    net = nn.Linear(4, 3, dtype=torch.float64)
    return modula.declare(net, {"weight": Max(2), "bias": RMS()})


def distances(make: Make, steps: tuple[int, ...]) -> list[float]:
    """||W||_F after so many steps down ||W||_F^2 / 2."""
    net = linear()
    optimizer = make(net)
    found = []
    for step in range(1, max(steps) + 1):
        net.weight.grad = net.weight.detach().clone()
        optimizer.step()
        if step in steps:
            found.append(float(net.weight.detach().norm()))
    return found


def test_a_fixed_step_stalls_at_its_length_and_clipping_falls_by_a_factor_a_step() -> None:
    fixed = distances(lambda net: modula.recipes.modular(net, 0.1, momentum=0.0), (200, 201))
    assert all(0.02 < distance < 0.3 for distance in fixed)
    first, second, third = distances(
        lambda net: modula.recipes.clipped(net, 0.1, rho=1.0, momentum=0.0), (60, 90, 120)
    )
    assert third < 1e-2 * first
    assert third / second == pytest.approx(second / first, rel=0.3)


def test_an_infinite_rho_is_the_polar_gradient() -> None:
    net = linear()
    before, gradient = net.weight.detach().clone(), torch.randn(4, 4, dtype=torch.float64)
    net.weight.grad = gradient.clone()
    modula.recipes.clipped(net, 0.1, rho=inf, momentum=0.0).step()
    moved = before - net.weight.detach()
    factor = polar(gradient)
    torch.testing.assert_close(moved, 0.1 * (gradient * factor).sum() * factor)
    nuclear = torch.linalg.matrix_norm(gradient, ord="nuc") * exact_polar(gradient)
    assert (moved - 0.1 * nuclear).norm() < 0.15 * (0.1 * nuclear).norm()


def test_a_vanishing_rho_is_muon_with_the_step_lr_rho() -> None:
    runs = []
    for make in (
        lambda net: modula.recipes.clipped(net, 1e4, rho=1e-6),
        lambda net: modula.recipes.modular(net, 1e-2),
    ):
        net = linear()
        optimizer = make(net)
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            net.weight.grad = torch.randn(4, 4, dtype=torch.float64, generator=generator)
            optimizer.step()
        runs.append(net.weight.detach())
    torch.testing.assert_close(*runs)


def paper_step(
    xs: list[Tensor], ds: list[Tensor], beta: float, rho: float, gamma: float
) -> list[Tensor]:
    """v = x + beta dualize(d);  eta = min(rho, <d, v> / (4 beta^2));  x - gamma eta v."""
    duals = [ds[0].sign(), ds[1] / ds[1].square().mean().sqrt()]
    vs = [x + beta * dual for x, dual in zip(xs, duals, strict=True)]
    gap = sum(float((d * v).sum()) for d, v in zip(ds, vs, strict=True))
    eta = min(rho, gap / (4 * beta**2))
    return [x - gamma * eta * v for x, v in zip(xs, vs, strict=True)]


@pytest.mark.parametrize("size", [0.01, 100.0])  # below rho, and above
def test_the_short_step_is_the_papers(size: float) -> None:
    net, beta, rho, gamma = signs(), 2.0, 0.7, 0.1
    # Our D + w / radius is the paper's v / beta, and our rho its rho times beta.
    optimizer = modula.recipes.clipped(net, gamma, rho=rho * beta, momentum=0.5, radius=beta)
    xs = [weight.detach().clone() for weight in net.parameters()]
    ds = [torch.zeros_like(x) for x in xs]
    for seed in range(6):
        torch.manual_seed(seed)
        for weight in net.parameters():
            weight.grad = size * torch.randn_like(weight)
        ds = [0.5 * d + 0.5 * w.grad for d, w in zip(ds, net.parameters(), strict=True)]
        xs = paper_step(xs, ds, beta, rho, gamma)
        optimizer.step()
    for weight, x in zip(net.parameters(), xs, strict=True):
        torch.testing.assert_close(weight.detach(), x)


def test_the_short_step_never_leaves_its_balls() -> None:
    net, radius = signs(), 0.6
    optimizer = modula.recipes.clipped(net, 0.5, rho=1.0, momentum=0.0, radius=radius)
    longest = 0.0
    for _ in range(30):
        for weight in net.parameters():
            weight.grad = torch.full_like(weight, 5.0)
        optimizer.step()
        sizes = [Max(2)(net.weight.detach()), RMS()(net.bias.detach())]  # type: ignore[arg-type]
        longest = max(longest, *map(float, sizes))
        assert all(size <= radius * (1 + 1e-12) for size in sizes)
    assert longest > 0.99 * radius  # it came to the rim


def test_the_short_step_comes_to_rest_where_plain_decay_does_not() -> None:
    """Down ||W - T||^2 / 2 within |entries| <= 1/2: the nearest point clips T's entries."""
    torch.manual_seed(1)
    target = torch.randn(4, 4, dtype=torch.float64)
    left = []
    for options in ({"radius": 0.5}, {"weight_decay": 2.0}):
        net = modula.declare(linear(), {"weight": Max(2)})
        optimizer = modula.recipes.clipped(net, 0.4, rho=1.0, momentum=0.0, **options)
        for _ in range(2000):
            net.weight.grad = net.weight.detach() - target
            optimizer.step()
        left.append(float((net.weight.detach() - target.clamp(-0.5, 0.5)).norm()))
    assert left[0] < 1e-2
    assert left[1] > 10 * left[0]


def test_nothing_moves_without_a_gradient_at_the_centre() -> None:
    net = linear()
    optimizer = modula.recipes.clipped(net, radius=1.0)
    before = net.weight.detach().clone()
    net.weight.grad = torch.zeros_like(before)
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), before, rtol=0, atol=0)


def test_the_plan_knows_it_by_its_name() -> None:
    row = modula.recipes.clipped(linear(), radius=1.0).plan["weight"]
    assert row.known_as == "short-step conditional gradient (S3CG)"


@pytest.mark.parametrize(
    ("recipe", "options", "length"),
    [
        ("clipped", {"rho": 5.0}, 5.0),
        ("clipped", {"rho": 0.25}, 0.25),
        ("modular", {"potential": Clip(5.0)}, 5.0),
        ("muon", {}, 1.0),
        ("scion", {"constrained": False, "radius": 3.0}, 3.0),
    ],
)
def test_an_exact_step_is_as_long_as_declared(
    recipe: str, options: dict[str, object], length: float
) -> None:
    torch.manual_seed(0)
    net = nn.Linear(40, 64, bias=False)
    before, gradient = net.weight.detach().clone(), 100 * torch.randn(64, 40)
    found = []
    for accuracy in (Exact(), None):
        with torch.no_grad():
            net.weight.copy_(before)
        net.weight.grad = gradient.clone()
        make = modula.recipes.RECIPES[recipe]
        make(net, 1.0, momentum=0.0, accuracy=accuracy, **options).step()
        found.append(float(RMSToRMS()(net.weight.detach() - before)))
    assert found[0] == pytest.approx(length, rel=1e-5)
    assert found[1] == pytest.approx(1.0587 * length, rel=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        modula.recipes.clipped(linear(), radius=1.0, weight_decay=0.1)
    with pytest.raises(ValueError, match="which is 2: lower lr or rho"):
        modula.recipes.clipped(linear(), 2.0, radius=1.0)
    with pytest.raises(ValueError, match="radius=-1"):
        modula.recipes.clipped(linear(), radius=-1)
    with pytest.raises(ValueError, match="positive rho"):
        ShortStep(0.0)
    on_sphere = modula.declare(linear(), {"weight": Sphere(ndim=2)})
    with pytest.raises(NoRule, match="potential ShortStep"):
        modula.recipes.clipped(on_sphere, radius=1.0)


def test_hello_world_follows_the_published_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLP on random targets, as in the code of arXiv:2410.21265 and with its polynomials."""
    published = [0.979311, 0.001822, 0.001423, 0.001066]
    monkeypatch.setattr("modula.kernels.spectral.polar.default_polynomials", lambda *_: YOU6)
    torch.manual_seed(0)
    x, y = torch.randn(128, 784), torch.randn(128, 10)
    net = modula.MLP(10, 256, 256, 784)
    optimizer = modula.recipes.modular(net, 0.1, momentum=0.0)
    assert [row.budget for row in optimizer.plan.rows] == pytest.approx([1 / 3] * 3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 1000)
    found = []
    for step in range(301):
        loss = (net(x) - y).square().mean()
        if step % 100 == 0:
            found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx(published, rel=0.2)


def test_an_embedding_row_without_gradient_does_not_move() -> None:
    net = nn.Embedding(5, 4)
    before = net.weight.detach().clone()
    optimizer = modula.recipes.modular(net, 0.1)
    F.mse_loss(net(torch.tensor([1, 3])), torch.zeros(2, 4)).backward()
    optimizer.step()
    moved = (net.weight.detach() != before).any(1)
    assert moved.tolist() == [False, True, False, True, False]


def test_clipping_is_sharp_below_rho_and_unit_above() -> None:
    """G = [[3, 4], [0, 5]] has the dual norm 4 sqrt(5) under the spectral norm (SVD: exact)."""
    g = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    for rho, length in ((5.0, 5.0), (10.0, 4 * 5**0.5)):
        net = nn.Linear(2, 2, bias=False)
        before = net.weight.detach().clone()
        net.weight.grad = g.clone()
        optimizer = modula.recipes.clipped(net, 0.1, rho=rho, momentum=0.0)
        optimizer.step()
        assert optimizer.last_lr == pytest.approx(0.1 * length, rel=0.07)
        moved = modula.norms.RMSToRMS()(before - net.weight.detach())
        assert float(moved) == pytest.approx(0.1 * length, rel=0.14)


def test_clipping_converges_where_a_fixed_step_stalls() -> None:
    def distance(make: Make) -> float:
        torch.manual_seed(0)
        net = nn.Linear(4, 4, bias=False)
        optimizer = make(net)
        for _ in range(300):
            optimizer.zero_grad()
            net.weight.square().sum().backward()
            optimizer.step()
        return float(net.weight.detach().norm())

    fixed = distance(lambda net: modula.recipes.modular(net, 0.1, momentum=0.0))
    clipped = distance(lambda net: modula.recipes.clipped(net, 0.1, rho=1.0, momentum=0.0))
    assert fixed > 1e-2
    assert clipped < 1e-4


def test_clipping_and_automatic_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="both set the length of the step"):
        modula.SteepestDescent(
            nn.Linear(2, 2), modula.Automatic(), potential=modula.duality.Clip(1.0)
        )


@pytest.mark.parametrize("options", [{}, {"radius": 8.0}, {"rho": 0.5, "radius": 1.0}], ids=str)
def test_clipping_and_a_rate_of_its_own_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="both set the length of the step: choose one"):
        modula.recipes.clipped(linear(), modula.Automatic(), **options)
