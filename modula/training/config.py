"""Configuration of a training run, as a dataclass and as a TOML file."""

import ast
import json
import tomllib
from dataclasses import asdict, dataclass, fields
from inspect import signature
from pathlib import Path
from sys import float_info
from typing import Any

import torch

from modula.errors import UserError, disk_errors_in_words, suggest
from modula.norms.checks import in_words, is_kind
from modula.optimizer.automatic import Automatic
from modula.recipes import RECIPES

CONFIG = "config.toml"
VOCABULARY = 256  # bytes
SMALL_WIDTH = 256
SEEDS = (-(2**63), 2**64 - 1)  # what torch takes
MOST_THREADS = 512  # thousands end in a segmentation fault
LARGEST = 2**31 - 1  # of the other whole numbers
PLACES = ("data", "device")  # where a run finds its text and computes, not what it computes

# What a grid found best for the default run: benchmarks/results/no_learning_rate_200.md and
# compare_metrics.md.
TUNED: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 0.016, "betas": (0.9, 0.95)},
    "muon": {"lr": 0.16, "adamw_lr": 0.008},
    "modular": {"lr": 0.2},
    "kl_shampoo": {"lr": 0.04},
    "soap": {"lr": 0.02, "momentum": 0.9},
}


@dataclass(frozen=True)
class Config:
    """One training run; every field is an option of `modula train` and a key of a config file.

    data              a text file or folder; empty for the sources of Python's standard library
    optimizer         a name in modula.recipes.RECIPES
    lr                its learning rate, norm per step; None for the one that a grid found best for
                      the default run (TUNED), else the recipe's own
    options           other options of the recipe: "momentum=0.9 every=5"; as lr where left out
    width, depth, heads, context     of the GPT; width is a multiple of 2 heads, context in bytes
    batch             windows a step
    microbatches      parts of a batch, each with a backward pass of its own; 0 leaves it open: 4
                      for an optimizer that compares them, else 1
    steps             of training; the learning rate falls linearly to zero over them
    seed              of the first weights and of the batches
    device            where to compute; "auto" for the GPU where there is one
    threads           of the CPU, part of what makes a run repeatable; 0 for `thread_count`
    validate_every    steps between two measurements of val_loss
    checkpoint_every  steps between two checkpoints
    norms_every       steps between two measurements of update_norms
    """

    data: str = ""
    optimizer: str = "automatic"
    lr: float | None = None
    options: str = ""
    width: int = 128
    depth: int = 2
    heads: int = 4
    context: int = 128
    batch: int = 16
    microbatches: int = 0
    steps: int = 200
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    validate_every: int = 20
    checkpoint_every: int = 50
    norms_every: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.lr, float | int) and not 0 < self.lr <= float_info.max:
            raise UserError(f"lr must be a positive number, not {self.lr}")
        for field in fields(self):
            value = getattr(self, field.name)
            if not is_kind(value, field.type):
                wanted = in_words(field.type).removesuffix(" or None")
                raise UserError(f"{field.name} must be {wanted}, not {value!r}")
            if isinstance(value, str) and not _is_plain(value):
                raise UserError(f"{field.name} must be UTF-8 without a NUL byte, not {value!r}")
            if field.type is int and field.name != "seed" and value > LARGEST:
                raise UserError(f"{field.name} must be at most {LARGEST}, not {value}")
        for name in ("width", "depth", "heads", "context", "batch", "steps", "validate_every",
                     "checkpoint_every", "norms_every"):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.microbatches <= self.batch:
            raise UserError(
                f"microbatches must be from 1 to batch = {self.batch}, or 0 to leave it open, "
                f"not {self.microbatches}"
            )
        if not 0 <= self.threads <= MOST_THREADS:
            raise UserError(
                f"threads must be positive and at most {MOST_THREADS}, or 0 to leave it open, "
                f"not {self.threads}"
            )
        if not SEEDS[0] <= self.seed <= SEEDS[1]:
            raise UserError(f"seed must be from {SEEDS[0]} to {SEEDS[1]}, not {self.seed}")
        if self.width % (2 * self.heads):
            nearest = -(-self.width // (2 * self.heads)) * 2 * self.heads
            raise UserError(
                f"{self.heads} heads do not divide a width of {self.width} into even parts: "
                f"the next width that fits is {nearest}"
            )
        if self.optimizer not in RECIPES:
            raise UserError(
                f"unknown optimizer {self.optimizer!r}: {suggest(self.optimizer, RECIPES)}"
            )
        if self.lr is not None and chooses_lr(self.optimizer):
            raise UserError(
                f"{self.optimizer} chooses its own learning rate: leave out lr = {self.lr} "
                f"(in a comparison, write it behind those that take one: adamw@{self.lr})"
            )
        parse_options(self.options)

    def recipe_options(self) -> dict[str, Any]:
        """Options for the recipe: those given, and tuned ones for the rest."""
        given = parse_options(self.options) | ({} if self.lr is None else {"lr": self.lr})
        taken = signature(RECIPES[self.optimizer]).parameters
        terms = {"terms": self.batch * self.context} if "terms" in taken else {}
        return TUNED.get(self.optimizer, {}) | terms | given


def _is_plain(text: str) -> bool:
    """Whether a text can be a file's name and a line of a config file."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # bytes of a command line that are no UTF-8
        return False
    return "\0" not in text


def parse_options(text: str) -> dict[str, Any]:
    """Options as a dict, from text such as "momentum=0.9 every=5".

    Raises UserError where a word is not NAME=VALUE with a number, a tuple, True, False, None or
    the name of a dtype.
    """
    found = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name == "lr":
            raise UserError(f"{word} is no other option: the learning rate is given as lr")
        dtype = getattr(torch, value, None)
        try:
            found[name] = dtype if isinstance(dtype, torch.dtype) else ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise UserError(
                f"options are NAME=VALUE with a number for VALUE, like momentum=0.9; not {word!r}"
            ) from None
    return found


def chooses_lr(optimizer: str) -> bool:
    """Whether a recipe finds its learning rate itself."""
    return isinstance(signature(RECIPES[optimizer]).parameters["lr"].default, Automatic)


def thread_count(config: Config) -> int:
    """The CPU threads of a run: one for a small network, whose sums would wait for each other.

    Two threads on two busy cores were measured ten times slower than one, at width 128.
    """
    return config.threads or (1 if config.width <= SMALL_WIDTH else torch.get_num_threads())


def find_device(name: str) -> torch.device:
    """The device of that name, tried out; "auto" is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            have.append("mps")
        raise UserError(
            f"unknown or absent device {name!r}: this machine has {', '.join(have)}"
        ) from error


def differences(now: Config, then: Config) -> str:
    """What differs between two configs, in words; "" for nothing that changes what is computed."""
    names = [field.name for field in fields(Config) if field.name not in PLACES]
    pairs = [(name, getattr(now, name), getattr(then, name)) for name in names]
    return ", ".join(f"{name} is {a!r} and was {b!r}" for name, a, b in pairs if a != b)


def to_toml(config: Config) -> str:
    """The config as a TOML file; JSON strings, numbers and lists are valid TOML."""
    present = {key: value for key, value in asdict(config).items() if value is not None}
    return "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in present.items())


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a config file; unknown ones are refused with the nearest known one."""
    known = [field.name for field in fields(Config)]
    with disk_errors_in_words("read", path):
        raw = path.read_bytes()
    try:
        content = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # also of a number of 5000 digits
        raise UserError(f"{path} is not a TOML file: {error}") from error
    for key in content:
        if key not in known:
            raise UserError(f"unknown key {key!r} in {path}: {suggest(key, known)}")
    return content


def read_config(folder: Path) -> Config:
    """The config of the run in a folder."""
    path = folder / CONFIG
    with disk_errors_in_words("read", path):
        there = path.exists()
    if not there:
        raise UserError(f"{folder} holds no run to resume: it has no {CONFIG}")
    return Config(**read_toml(path))
