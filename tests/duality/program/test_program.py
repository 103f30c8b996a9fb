"""Programs: what they print, which state they keep, and what is refused when one is built."""

import pytest
from torch import nn

from modula import Group, SteepestDescent
from modula.duality import (
    Average,
    Declaration,
    Derived,
    PerWeight,
    Program,
    Setting,
    Slot,
    Unbiased,
    derives,
    line,
    program_of,
)
from modula.duality.program.names import MEAN_SQUARE
from modula.kernels.elementwise import averages, decay, update
from modula.kernels.op import Shape
from modula.kernels.spectral.polar import polar
from modula.manifolds import Euclidean
from modula.norms import L2, RMSToRMS, Spectral

MISSPELT = (line("direction", polar, "qeury"),)
STEP = line("weight", update.step, "weight", "direction", "lr", scale=PerWeight(1.0))


def test_programs_print_as_they_are_written() -> None:
    program = program_of(Declaration(Setting(RMSToRMS(), momentum=Average(0.95))), (32, 8))
    assert str(program) == (
        "momentum = average(momentum, gradient, beta=0.95)\n"
        "active = active[weight](momentum, gradient)\n"
        "direction = polar(active)\n"
        "weight = step(weight, direction, lr, scale=2)"
    )
    assert program.state == ("momentum",)


def test_a_misspelt_name_is_no_state() -> None:
    ahead = line("query", averages.blend, "gradient", "momentum", beta=0.9)
    slots = (("momentum", Slot()),)
    with pytest.raises(ValueError, match="reads 'qeury', which no line .* nearest is 'query'"):
        Program((ahead, *MISSPELT), (STEP,), query="query", slots=slots)
    with pytest.raises(ValueError, match="direction of a program is 'drection'"):
        Program((line("direction", polar, "gradient"),), (STEP,), direction="drection")


def test_a_rule_that_misspells_trains_nothing_and_says_so() -> None:
    class Odd(Euclidean):
        """A manifold with a rule of its own."""

    @derives(Spectral, Odd)
    def misspelt(setting: Setting, shape: Shape) -> Derived:
        return Derived(MISSPELT)

    net = nn.Linear(4, 3, bias=False)
    words = r"weight: `direction = polar\(qeury\)` reads 'qeury', .* nearest is 'query'"
    with pytest.raises(ValueError, match=words):
        SteepestDescent(net, groups=[Group({"weight": Declaration(Setting(RMSToRMS(), Odd()))})])


def test_the_mean_square_needs_a_declared_second_moment() -> None:
    decayed = line("weight", decay.scheduled_decay, "weight", "lr", MEAN_SQUARE, rate=0.1)
    with pytest.raises(ValueError, match="no slot is declared as a second moment"):
        Program((), (decayed,), direction="gradient")
    assert Program(
        (), (decayed,), "gradient", slots=(("v", Slot(second_moment=True)),)
    ).second_moment


def test_counters_are_declared_with_what_counts_them() -> None:
    program = program_of(Declaration(Setting(L2(2), momentum=Unbiased())), (4, 3))
    assert program.slot("step").counts and program.lines[0].result == "step"
    assert program.state_bytes((4, 3), 4) == 4 * 12
