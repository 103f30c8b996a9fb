"""Training runs that are killed at random moments, over and over, against one that nothing stopped.

    python benchmarks/random_kills.py [--kills 32] [--steps 120] [--seed 0]

A child process trains with a checkpoint every step; after a random time it is killed as by
`kill -9`, in the middle of a step, of a save or of nothing, and the next one goes on from what it
left.  When the run is through, its metrics (but for the clock), its weights and its optimizer's
state must be those of the whole run, bit for bit.  POSIX only: children are forks, which start at
once.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from modula.training import checkpoint
from modula.training.config import Config
from modula.training.data import Text, split
from modula.training.records import Record, read_records
from modula.training.run import CHECKPOINTS, Run

CONFIG = Config(
    optimizer="adamw", width=16, depth=1, heads=2, context=16, batch=4, device="cpu", threads=1,
    checkpoint_every=1, validate_every=5, norms_every=5,
)  # fmt: skip


def train_in_child(config: Config, text: Text, folder: Path) -> int:
    """Train in a forked process; returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for _ in Run(config, text, folder):
                pass
            code = 0
        finally:
            os._exit(code)
    return child


def ends_within(child: int, seconds: float) -> bool:
    """Whether a child came to its end by itself; it is killed where it did not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status:
                raise SystemExit(f"a resumed run failed with status {status}")
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return status == 0


def measured(folder: Path) -> list[Record]:
    """Everything that was measured, without the clock."""
    records = read_records(folder / "metrics.jsonl")
    return [replace(record, seconds=0.0, tokens_per_second=0.0) for record in records]


def same(one: object, other: object) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def main() -> None:
    """Kill, resume, compare; the exit code is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=32)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, config = random.Random(asked.seed), replace(CONFIG, steps=asked.steps)
    text = split("a sentence", [b"the quick brown fox jumps over the lazy dog. " * 60])
    kills = runs = in_saves = differing = 0
    with tempfile.TemporaryDirectory() as place:
        # What torch imports at the first step is imported once, not in every child.
        list(Run(replace(config, steps=1), text, Path(place) / "first"))
        whole = Path(place) / "whole"
        begin = time.monotonic()
        if not ends_within(train_in_child(config, text, whole), 3600):
            raise SystemExit("the whole run did not end within an hour")
        took = time.monotonic() - begin
        print(f"the whole run: {asked.steps} steps in {took:.1f} s")
        wanted = checkpoint.load_newest(whole / CHECKPOINTS)
        while kills < asked.kills:
            folder = Path(place) / f"killed-{runs}"
            while not ends_within(train_in_child(config, text, folder), draw.uniform(0, took / 2)):
                kills += 1
                in_saves += bool(list(folder.glob(f"{CHECKPOINTS}/.*-step-*")))
            runs += 1
            found = checkpoint.load_newest(folder / CHECKPOINTS)
            equal = (
                wanted is not None and found is not None and measured(folder) == measured(whole)
                and same(found.weights, wanted.weights) and same(found.state, wanted.state)
            )  # fmt: skip
            differing += not equal
    print("| runs | kills | of these in a save | runs that differ |\n| ---: | ---: | ---: | ---: |")
    print(f"| {runs} | {kills} | {in_saves} | {differing} |")
    raise SystemExit(1 if differing else 0)


if __name__ == "__main__":
    main()
