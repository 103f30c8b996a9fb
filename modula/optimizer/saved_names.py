"""Names of weights in a saved state, and which of the optimizer's own weights they mean."""

from __future__ import annotations

from collections.abc import Sequence

from modula.errors import shortened

# What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into a name.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def match_names(own: Sequence[str], saved: Sequence[str]) -> dict[str, str]:
    """The saved name of each of the own ones, in whatever order they stand.

    Names that differ mean the same weight where they do not behind wrappers are taken out, and
    where all names of one side begin with a prefix that those of the other lack.

    Raises ValueError, with both sides, unless each has its counterpart.

    >>> match_names(["net.0.weight", "net.0.bias"], ["_orig_mod.0.bias", "_orig_mod.0.weight"])
    {'net.0.weight': '_orig_mod.0.weight', 'net.0.bias': '_orig_mod.0.bias'}
    """
    for reduced in (str, _unwrapped):
        by_key = {reduced(name): name for name in saved}
        keys = _aligned([reduced(name) for name in own], [*by_key])
        if keys is not None and len(by_key) == len(saved) == len({*keys}):
            return {name: by_key[key] for name, key in zip(own, keys, strict=True)}
    common = {*map(_unwrapped, own)} & {*map(_unwrapped, saved)}
    sides = [
        shortened([name for name in names if _unwrapped(name) not in common] or names)
        for names in (saved, own)
    ]
    raise ValueError(
        f"the names of weights differ: saved, but not here, {sides[0] or 'none'}; here, but not "
        f"saved, {sides[1] or 'none'}: load into an optimizer of the same network"
    )


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _aligned(own: Sequence[str], saved: Sequence[str]) -> list[str] | None:
    """The own names as they were saved, without or with one prefix more; None if that is not so."""
    if not own or not saved:
        return None
    first, was = min(own), min(saved)  # a common prefix leaves the order as it is
    more, fewer = first.removesuffix(was), was.removesuffix(first)
    if first.endswith(was) and all(name.startswith(more) for name in own):
        prefix, found = more, [name.removeprefix(more) for name in own]
    else:
        prefix, found = fewer, [fewer + name for name in own]
    is_whole = prefix == "" or prefix.endswith(".")
    return found if is_whole and {*found} == {*saved} else None
