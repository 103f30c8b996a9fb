"""The memory that a run takes, estimated before it takes any, and the memory that there is."""

import os
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import torch

from modula.errors import UserError
from modula.training.config import VOCABULARY, Config

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
FLOAT, INDEX = 4, 8  # bytes
WEIGHT_COPIES = 8  # weight, gradient, state of two averages, what a step and a checkpoint copy


def estimate(config: Config) -> int:
    """Bytes that a run takes at its peak, beside those of Python and torch.

    Of a position the backward pass keeps the scores, four times until they are a gradient, the
    stream, and in each block 15 vectors and the sums of the attention; tests hold that to what
    autograd saves.  A weight is there WEIGHT_COPIES times.  Microbatches count where the config
    names them.
    """
    width, depth = config.width, config.depth
    windows = config.batch * (config.context + 1)
    positions = -(-config.batch // max(config.microbatches, 1)) * config.context
    kept = 4 * VOCABULARY + width + depth * (15 * width + config.heads)
    weights = 2 * VOCABULARY * width + 12 * depth * width**2
    return FLOAT * (positions * kept + WEIGHT_COPIES * weights) + 2 * INDEX * windows


def available(device: torch.device) -> float:
    """Bytes that a process may still have on a device; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_machine(), *map(_limit, LIMITS))


def _machine() -> float:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * float(line.split()[1])
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return inf


def _limit(path: str) -> float:
    """The bytes that a container may have in all."""
    try:
        return float(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or "max"
        return inf


def require_memory(config: Config, free: float) -> None:
    """Refuse a run that takes more memory than is free, with the nearest one that fits."""
    takes = estimate(config)
    if takes > free:
        raise UserError(
            f"this run would take about {in_gigabytes(takes)} of memory, and "
            f"{in_gigabytes(free)} are free: {_cure(config, free)}"
        )


def _cure(config: Config, free: float) -> str:
    """The first of these settings that, made smaller alone, fits."""
    whole = replace(config, microbatches=0)  # fewer windows than microbatches is no batch
    for name, unit in (("batch", 1), ("context", 1), ("depth", 1), ("width", 2 * config.heads)):

        def fits(count: int, name: str = name, unit: int = unit) -> bool:
            smaller: dict[str, Any] = {name: count * unit}
            return estimate(replace(whole, **smaller)) <= free

        if count := largest(fits, getattr(config, name) // unit):
            return f"--{name} {count * unit} fits"
    return "take a smaller --width and a smaller --batch"


def largest(fits: Callable[[int], bool], below: int) -> int:
    """The largest count under `below` that fits, where all smaller ones do too; 0 if none does.

    >>> largest(lambda count: count**2 <= 30, 1000)
    5
    """
    low, high = 0, max(below, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def in_gigabytes(count: float) -> str:
    """Bytes for a person to read.

    >>> in_gigabytes(2.5e9), in_gigabytes(3e7)
    ('2.5 GB', '0.03 GB')
    """
    return f"{count / 1e9:,.3g} GB" if count < 1e12 else f"{count / 1e9:,.0f} GB"
