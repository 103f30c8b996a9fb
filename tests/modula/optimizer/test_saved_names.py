"""Saved names find the weights that they mean, and nothing is guessed."""

import random

import pytest

from modula.optimizer.saved_names import WRAPPERS, match_names

OWN = ["blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "head.weight"]


def wrapped(name: str, where: int, wrapper: str) -> str:
    parts = name.split(".")
    return ".".join([*parts[:where], wrapper, *parts[where:]])


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "model", "net.inner"])
@pytest.mark.parametrize("side", ["own", "saved"])
def test_wrappers_are_seen_through_on_both_sides(wrapper: str, side: str) -> None:
    where = (0, 1) if wrapper in WRAPPERS else (0,)
    for place in where:
        plain, other = OWN, [wrapped(name, place, wrapper) for name in OWN]
        random.Random(0).shuffle(other)
        own, saved = (other, plain) if side == "own" else (plain, other)
        found = match_names(own, saved)
        assert [*found] == own
        for name, was in found.items():
            short, long = (was, name) if side == "own" else (name, was)
            assert wrapped(short, place, wrapper) == long


def test_wrappers_of_both_sides_and_a_prefix_come_together() -> None:
    own = [f"model._orig_mod.{name}" for name in OWN]
    saved = [f"module._fsdp_wrapped_module.{name}" for name in reversed(OWN)]
    found = match_names(own, saved)
    assert {was.removeprefix("module._fsdp_wrapped_module.") for was in found.values()} == {*OWN}
    assert all(name.endswith(was.split("module.")[-1]) for name, was in found.items())


def test_a_network_whose_own_layer_is_called_module() -> None:
    own = ["module.weight", "weight", "net.module.weight"]
    assert match_names(own, own[::-1]) == {name: name for name in own}
    saved = [f"_orig_mod.{name}" for name in own]
    assert match_names(own, saved) == dict(zip(own, saved, strict=True))


@pytest.mark.parametrize(
    ("own", "saved", "words"),
    [
        (
            ["a.weight", "b.weight"],
            ["a.weight"],
            "not here, a.weight; here, but not saved, b.weigh",
        ),
        (
            ["a.weight"],
            ["a.weight", "c.bias"],
            "saved, but not here, c.bias; here, but not saved, a",
        ),
        (["a.weight", "b.weight"], ["a.weight", "c.weight"], "here, c.weight; .* saved, b.weight:"),
        (["x.a", "y.b"], ["a", "b"], "saved, but not here, a, b; here, but not saved, x.a, y.b:"),
        (["xa", "xb"], ["a", "b"], "saved, but not here, a, b; here, but not saved, xa, xb:"),
        (["net.a", "net.b"], ["model.a", "model.b"], "not here, model.a, model.b; .* net.a, net.b"),
        (["a"], [f"w{i}" for i in range(20)], "w0, w1, w2, w3, w4, w5, w6, w7 and 12 more; here"),
        (["module.a", "a"], ["_orig_mod.a", "b"], "the names of weights differ"),
        (["a"], [], "saved, but not here, none; here, but not saved, a:"),
    ],
)
def test_what_does_not_match_is_refused_with_both_sides(
    own: list[str], saved: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        match_names(own, saved)
    assert "\n" not in str(error.value)
