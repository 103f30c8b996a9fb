"""Numbers of the whole network: clipping in a norm over its weights, and the decay of AdamS."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import (
    Average,
    Behind,
    Clip,
    Declaration,
    NoMomentum,
    Potential,
    Scheduled,
    Setting,
    Sharp,
    ShortStep,
    Unbiased,
)
from modula.kernels.elementwise.decay import scheduled_decay
from modula.norms import (
    L1,
    L2,
    RMS,
    Diagonal,
    Frobenius,
    Kronecker,
    Max,
    Metric,
    Norm,
)
from modula.optimizer.steepest_descent import Group
from modula.recipes import adamw, kl_shampoo, sgd

SIZES = pytest.mark.parametrize("size", [0.01, 10.0], ids=["below rho", "above it"])


def net_of(matrices: Norm, vectors: Norm) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    return modula.declare(net, {"*.weight": matrices, "*.bias": vectors})


def with_gradients(net: nn.Module, size: float) -> list[tuple[Tensor, Tensor]]:
    """(weight before the step, gradient) of each weight."""
    generator = torch.Generator().manual_seed(1)
    for weight in net.parameters():
        weight.grad = size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return [(w.detach().clone(), w.grad.clone()) for w in net.parameters()]


def clipping(net: nn.Module, over: Norm, rho: float = 1.0) -> None:
    modula.SteepestDescent(net, 0.1, momentum=NoMomentum(), potential=Clip(rho, over)).step()


@SIZES
def test_clipping_over_l2_of_euclidean_norms_is_torchs_by_the_global_norm(
    size: float,
) -> None:
    ours, theirs = (net_of(Frobenius(), L2()) for _ in range(2))
    with_gradients(ours, size)
    with_gradients(theirs, size)
    clipping(ours, L2())
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    torch.optim.SGD(theirs.parameters(), 0.1).step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(mine, other, rtol=1e-6, atol=1e-9)


@SIZES
@pytest.mark.parametrize("over", [Max(), L2(), L1(), RMS()], ids=str)
def test_clipping_is_the_formula_weight_by_weight(over: Norm, size: float) -> None:
    """Signs and RMS-normalised vectors, whose duality maps are exact."""
    net = net_of(Max(2), RMS())
    before = with_gradients(net, size)
    directions = [g.sign() if g.ndim > 1 else g / g.square().mean().sqrt() for _, g in before]
    gains = [float((g * d).sum()) for (_, g), d in zip(before, directions, strict=True)]
    n = len(gains)
    dual, shares = {
        "Max": (sum(gains), [1.0] * n),
        "L1": (max(gains), [float(gain == max(gains)) for gain in gains]),
        "L2": (norm := sum(gain**2 for gain in gains) ** 0.5, [gain / norm for gain in gains]),
        "RMS": (norm * n**0.5, [gain / norm * n**0.5 for gain in gains]),
    }[type(over).__name__]
    clipping(net, over, rho=2.0)
    for weight, (w, _), d, share in zip(net.parameters(), before, directions, shares, strict=True):
        assert_close(weight.detach(), w - 0.1 * min(2.0, dual) * share * d)


def test_a_clipped_step_is_as_long_as_rho_in_the_norm_of_the_network() -> None:
    net = net_of(Max(2), RMS())
    before = with_gradients(net, 10.0)
    clipping(net, L2(), rho=0.5)
    lengths = [
        float((Max(2) if w.ndim > 1 else RMS())(weight.detach() - w))
        for weight, (w, _) in zip(net.parameters(), before, strict=True)
    ]
    assert sum(length**2 for length in lengths) ** 0.5 == pytest.approx(0.1 * 0.5)


def test_an_average_of_directions_is_shared_out_and_kept_whole() -> None:
    net = net_of(Max(2), RMS())
    average = Behind(Average(0.9))
    optimizer = modula.SteepestDescent(net, 0.1, momentum=average, potential=Clip(2.0, L2()))
    velocities = [torch.zeros_like(weight) for weight in net.parameters()]
    for size in (0.01, 10.0, 0.1):
        before = with_gradients(net, size)
        directions = [g.sign() if g.ndim > 1 else g / g.square().mean().sqrt() for _, g in before]
        velocities = [0.9 * v + 0.1 * d for v, d in zip(velocities, directions, strict=True)]
        gains = [float((g * v).sum()) for (_, g), v in zip(before, velocities, strict=True)]
        norm = sum(gain**2 for gain in gains) ** 0.5
        optimizer.step()
        for weight, (w, _), v, gain in zip(
            net.parameters(), before, velocities, gains, strict=True
        ):
            assert_close(weight.detach(), w - 0.1 * min(2.0, norm) * gain / norm * v)


def test_weights_without_a_gradient_have_no_share() -> None:
    net = net_of(Max(2), RMS())
    before = with_gradients(net, 1.0)
    for weight in list(net.parameters())[1:]:
        weight.grad = None
    clipping(net, L2(), rho=0.5)
    first, *others = zip(net.parameters(), before, strict=True)
    assert_close(first[0].detach(), first[1][0] - 0.05 * first[1][1].sign())
    assert all(torch.equal(weight.detach(), w) for weight, (w, _) in others)


def test_clipping_over_what_is_no_norm_of_one_number_a_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="one number a weight"):
        Clip(1.0, Max(2))
    with pytest.raises(ValueError, match="Clip needs a"):
        Clip(1.0, "L2")


def test_the_modular_norm_goes_unsaid_as_in_states_saved_before_there_was_a_choice() -> None:
    assert repr(Clip(2.0)) == "Clip(rho=2.0)"
    assert repr(Clip(2.0, L2())) == "Clip(rho=2.0, over=L2())"
    assert repr(Clip(2.0, RMS())) == "Clip(rho=2.0, over=RMS())"


def test_a_length_that_groups_and_optimizer_do_not_agree_on_is_refused() -> None:
    net = nn.Sequential(nn.Linear(6, 8))
    clipped = modula.optimizer.param_groups.declarations_of(net, potential=Clip(2.0))
    with pytest.raises(ValueError, match=r"0.weight: Clip\(rho=2.0\) sets .* potential=Clip"):
        modula.SteepestDescent(net, groups=[modula.Group(clipped)])
    modula.SteepestDescent(net, groups=[modula.Group(clipped)], potential=Clip(2.0))


LR, RATE, BETAS, EPS = 0.05, 0.3, (0.9, 0.99), 1e-8


SHAPES = {"matrix": (3, 5), "vector": (2,)}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.ParameterDict:
    weights = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}
    return modula.declare(
        nn.ParameterDict(weights), {name: L2(len(SHAPES[name])) for name in SHAPES}
    )


def gradients(step: int) -> list[Tensor]:
    """Of very different sizes, which change: only their common mean square decays."""
    return [0.1 * draw(3, 5, seed=100 + step), (5 + step) * draw(2, seed=200 + step)]


def naive(weights: list[Tensor], steps: int) -> list[Tensor]:
    """AdamS as published, over a list of weights."""
    weights = [w.clone() for w in weights]
    means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for t in range(1, steps + 1):
        for i, g in enumerate(gradients(t)):
            means[i] = BETAS[0] * means[i] + (1 - BETAS[0]) * g
            squares[i] = BETAS[1] * squares[i] + (1 - BETAS[1]) * g**2
        hats = [v / (1 - BETAS[1] ** t) for v in squares]
        root = torch.cat([v.flatten() for v in hats]).mean().sqrt()
        for i, w in enumerate(weights):
            step = means[i] / (1 - BETAS[0] ** t) / (hats[i].sqrt() + EPS)
            weights[i] = (1 - LR * RATE / root) * w - LR * step
    return weights


def step(
    net: nn.ParameterDict, optimizer: modula.SteepestDescent, given: Sequence[Tensor | None]
) -> None:
    for weight, gradient in zip(net.values(), given, strict=True):
        weight.grad = gradient
    optimizer.step()


def with_scheduled_decay(net: nn.ParameterDict) -> modula.SteepestDescent:
    return adamw(net, LR, betas=BETAS, eps=EPS, weight_decay=Scheduled(RATE))


def test_twenty_steps_of_adams_are_those_of_the_published_loop() -> None:
    net = network()
    optimizer = with_scheduled_decay(net)
    expected = naive([w.detach() for w in net.values()], 20)
    for t in range(1, 21):
        step(net, optimizer, gradients(t))
    assert_close([w.detach() for w in net.values()], expected, rtol=1e-12, atol=1e-12)
    assert optimizer.last_lr == LR


def test_the_mean_square_is_of_the_whole_network_whatever_the_groups() -> None:
    net, split = network(), network()
    setting = {
        name: Setting(L2(len(shape)), metric=Diagonal(), potential=Sharp(), momentum=Unbiased(0.9))
        for name, shape in SHAPES.items()
    }
    declared = {
        name: Declaration(each, weight_decay=Scheduled(RATE)) for name, each in setting.items()
    }
    one = modula.SteepestDescent(net, LR, groups=[Group(declared)])
    two = modula.SteepestDescent(split, LR, groups=[Group({n: d}) for n, d in declared.items()])
    for t in range(1, 5):
        step(net, one, gradients(t))
        step(split, two, gradients(t))
    for a, b in zip(net.values(), split.values(), strict=True):
        assert_close(a, b, rtol=1e-12, atol=0)


def test_a_resumed_run_of_adams_goes_on_bit_by_bit() -> None:
    net = network()
    optimizer = with_scheduled_decay(net)
    for t in range(1, 6):
        step(net, optimizer, gradients(t))
    other = network()
    other.load_state_dict(net.state_dict())
    resumed = with_scheduled_decay(other)
    resumed.load_state_dict(optimizer.state_dict())
    for t in range(6, 9):
        step(net, optimizer, gradients(t))
        step(other, resumed, gradients(t))
    for a, b in zip(net.values(), other.values(), strict=True):
        assert torch.equal(a, b)


def test_without_gradients_nothing_decays_and_nothing_is_nan() -> None:
    net = network()
    optimizer = with_scheduled_decay(net)
    before = [w.detach().clone() for w in net.values()]
    for _ in range(2):
        step(net, optimizer, [torch.zeros(3, 5).double(), torch.zeros(2).double()])
    for a, b in zip(net.values(), before, strict=True):
        assert torch.equal(a.detach(), b)


def test_a_weight_without_gradient_stays_and_is_not_in_the_mean() -> None:
    net, alone = network(), network()
    optimizer, single = with_scheduled_decay(net), with_scheduled_decay(alone)
    step(net, optimizer, gradients(1))
    step(alone, single, gradients(1))
    vector = net["vector"].detach().clone()
    step(net, optimizer, [gradients(2)[0], None])
    assert torch.equal(net["vector"].detach(), vector)
    square = optimizer.state[net["matrix"]]["square"]
    momentum = optimizer.state[net["matrix"]]["momentum"]
    shrunk = (1 - LR * RATE / square.mean().sqrt()) * alone["matrix"].detach()
    assert_close(net["matrix"].detach(), shrunk - LR * momentum / (square.sqrt() + EPS))


def test_no_weight_is_carried_past_zero() -> None:
    """A gradient of 1e-9 asks for a decay of 1.5e7: the weight goes, and does not come back."""
    weight, lr = draw(3, seed=0), torch.tensor(LR, dtype=torch.float64)
    tiny = torch.tensor(1e-18, dtype=torch.float64)
    assert torch.equal(scheduled_decay(weight, lr, tiny, rate=RATE), torch.zeros(3).double())
    [listed] = scheduled_decay.foreach([weight.clone()], lr, tiny, rate=RATE, scale=[1e-9])
    assert_close(listed, (1 - 1e-9 * LR * RATE / 1e-9) * weight)


def test_adams_goes_with_the_length_of_automatic() -> None:
    """Both are numbers of the whole network, and lr is what the length made of it."""
    net = network()
    modula.declare(net, {name: L2(len(s)).under(Diagonal()) for name, s in SHAPES.items()})
    before = net["matrix"].detach().clone()
    optimizer = modula.SteepestDescent(net, modula.Automatic(), weight_decay=Scheduled(RATE))
    given = gradients(1)
    step(net, optimizer, given)
    root = torch.cat([g.flatten() ** 2 for g in given]).mean().sqrt()
    direction = given[0] / given[0].abs().add(EPS)
    moved = (1 - optimizer.last_lr * RATE / root) * before - net["matrix"].detach()
    assert_close(moved / moved.norm(), direction / direction.norm())


@pytest.mark.parametrize("metric", [None, Kronecker(), Diagonal(power=1.0)], ids=str)
def test_adams_is_refused_where_no_second_moment_is_kept(metric: Metric | None) -> None:
    with pytest.raises(ValueError, match="root of Adam's second moment"):
        Declaration(Setting(L2(2), metric=metric, potential=Sharp()), weight_decay=Scheduled(0.1))
    for recipe in (sgd, kl_shampoo):
        with pytest.raises(ValueError, match=r"or use Decoupled\(0.1\)"):
            recipe(nn.Linear(3, 3), weight_decay=Scheduled(0.1))


@pytest.mark.parametrize("rule", [Clip(1.0), Clip(2.0, L2()), ShortStep(0.5)], ids=str)
def test_a_direction_as_long_as_its_gradient_is_not_clipped_by_the_network(rule: Potential) -> None:
    net = nn.Linear(3, 2)
    words = r"^weight: .* which would count twice: declare the weight with Unit\(\)"
    with pytest.raises(ValueError, match=words):
        modula.recipes.sgd(net, potential=rule)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        group = Group(
            {
                n: Declaration(Setting(L2(w.ndim), potential=Sharp()))
                for n, w in net.named_parameters()
            }
        )
        modula.SteepestDescent(net, groups=[group], potential=rule)
    modula.recipes.adamw(net, potential=rule)  # type: ignore[arg-type]
    modula.recipes.sign(net, potential=rule)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"lr": modula.Automatic()}, {"potential": Clip(1.0)}], ids=str)
@pytest.mark.parametrize("name", ["rmsprop", "root_free", "adamw"])
def test_an_average_that_points_against_the_gradient_has_no_length(
    name: str, options: dict[str, object]
) -> None:
    net = nn.Linear(3, 1, bias=False)
    given = options | ({} if name == "adamw" else {"momentum": 0.9})
    optimizer = modula.recipes.RECIPES[name](net, **given, weight_decay=0.0)
    for size in (1.0, 1.0, -0.01):
        before = net.weight.detach().clone()
        net.weight.grad = torch.full_like(net.weight, size)
        optimizer.step()
        assert net.weight.isfinite().all()
    if name != "adamw":  # whose average is what the length is measured with
        assert torch.equal(net.weight, before)
