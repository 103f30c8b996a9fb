"""Lines: what they print, which options they take, and when they run."""

import pytest

from modula.duality import Live, PerWeight, Role, line
from modula.kernels.elementwise import averages, update
from modula.kernels.spectral.polar import polar


def test_a_line_prints_as_it_is_written_with_options_at_their_values() -> None:
    average = line("momentum", averages.average, "momentum", "gradient", beta=Live("beta", 0.95))
    assert str(average) == "momentum = average(momentum, gradient, beta=0.95)"
    step = line("weight", update.step, "weight", "direction", "lr", scale=PerWeight(0.353553))
    assert str(step) == "weight = step(weight, direction, lr, scale=0.3536)"


def test_a_line_that_overwrites_must_say_so() -> None:
    with pytest.raises(ValueError, match="average overwrites momentum, not query"):
        line("query", averages.average, "momentum", "gradient", beta=0.9)


def test_an_op_on_stacks_takes_no_option_a_weight() -> None:
    with pytest.raises(ValueError, match="polar runs on all weights .* option scale cannot differ"):
        line("direction", polar, "query", scale=PerWeight(2.0))


def test_live_options_have_the_value_they_have_outside() -> None:
    average = line("momentum", averages.average, "momentum", "gradient", beta=Live("momentum", 0.9))
    assert average.values() == {"beta": 0.9}
    assert average.values({"momentum": 0.5, "other": 1.0}) == {"beta": 0.5}


def test_lines_that_differ_by_weight_alone_have_one_signature_and_roles_are_part_of_it() -> None:
    one, two = (line("weight", update.step, "weight", "direction", "lr", scale=PerWeight(s))
                for s in (1.0, 2.0))  # fmt: skip
    assert one != two and one.signature == two.signature
    assert one.signature != two.in_role(Role.STEP).signature
    assert (
        line("weight", update.step, "weight", "direction", "lr", scale=1.0).signature
        != one.signature
    )
