"""The training loop of one run, with its checkpoints and measurements in a folder."""

from collections.abc import Iterator
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from modula.duality.program.names import MICROBATCHES, SAMPLED, SAMPLED_MICROBATCHES
from modula.errors import Diverged, UserError, refusals_in_words
from modula.network.compounds import GPT
from modula.network.geometry import Geometry, geometries
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes import RECIPES
from modula.statistics import sampled_labels
from modula.training import checkpoint
from modula.training.config import (
    CONFIG,
    VOCABULARY,
    Config,
    differences,
    find_device,
    read_config,
    thread_count,
    to_toml,
)
from modula.training.data import Text, even_windows, random_windows
from modula.training.files import METRICS, replace_file
from modula.training.lock import locked
from modula.training.memory import available, require_memory
from modula.training.records import MetricsFile, Record

CHECKPOINTS = "checkpoint"
VALIDATION_WINDOWS = 64
COMPARED = 4  # microbatches a step, where a metric compares them
SAMPLE_EVERY = 10  # steps between two passes at sampled labels: Sophia's, and often enough for KFAC


class Run:
    """One training run in one folder; iterating it trains, a record a step.

        for record in Run(Config(), load_text(), Path("runs/one")):
            print(record.loss)

    The folder gets config.toml, metrics.jsonl and checkpoint/.  A folder that has them already is
    continued from its newest checkpoint, on a CPU to the same losses bit for bit: the batch of a
    step depends on seed and step alone, everything else is in the checkpoint.  The number of
    threads of the whole process is set to the config's.

    Raises UserError for a folder whose run is another one, whose config was edited or whose
    checkpoint is broken; when iterated, where another process trains this run.
    """

    def __init__(self, config: Config, text: Text, folder: Path) -> None:
        text.require(config.context)
        if (folder / CONFIG).exists() and (differs := differences(config, read_config(folder))):
            raise UserError(f"{folder} holds another run ({differs}): choose another folder")
        self.config, self.text, self.folder = config, text, folder
        self.device = find_device(config.device)
        torch.set_num_threads(thread_count(config))  # sums of another order are other sums
        torch.manual_seed(config.seed)
        self.model, self.optimizer = build(config, self.device)
        self.microbatches = microbatch_count(config, self.optimizer)
        self.geometry = geometries(self.model)
        self.step, self.seconds = 0, 0.0
        self._restore()
        # A function of config and step alone, so that no checkpoint has to hold it.
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.schedule = LambdaLR(
            self.optimizer, lambda step: max(0.0, 1.0 - step / config.steps), self.step - 1
        )
        replace_file(folder / CONFIG, to_toml(config).encode())

    def __iter__(self) -> Iterator[Record]:
        with locked(self.folder / CHECKPOINTS):
            self._refuse_stale()
            checkpoint.clear_killed(self.folder / CHECKPOINTS)
            with MetricsFile(self.folder / METRICS, self.step) as metrics:
                yield from self._train(metrics)

    def _train(self, metrics: MetricsFile) -> Iterator[Record]:
        while self.step < self.config.steps:
            record = self._train_step()
            metrics.append(record)
            if self._is_due(self.config.checkpoint_every):
                metrics.sync()
                self._save()
            yield record

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _train_step(self) -> Record:
        windows = random_windows(
            self.text.train, self.config.context, self.config.batch, self.config.seed, self.step
        )
        self.step += 1
        before = self._weights() if self._is_due(self.config.norms_every) else {}
        begin = perf_counter()
        # Under IVON both passes are at the same drawn weights; other recipes move none.
        with self.optimizer.perturbed():
            value = self._backward(windows)
            self._sample(windows)
        self._update()
        lr = self.optimizer.last_lr
        self.optimizer.zero_grad()
        self.schedule.step()
        synchronize(self.device)  # kernels run behind the host: the clock would stop too early
        took = perf_counter() - begin
        self.seconds += took
        return Record(
            step=self.step,
            loss=value,
            lr=lr,
            seconds=self.seconds,
            tokens_per_second=self.config.batch * self.config.context / took,
            val_loss=self.validate() if self._is_due(self.config.validate_every) else None,
            update_norms=self._update_norms(before) if before else None,
        )

    def _backward(self, windows: Tensor) -> float:
        """The loss of a batch, whose gradient is then in place."""
        value = 0.0
        for part, share in self._parts(windows):
            loss = self._loss(part)
            value += share * self._finite(loss)
            (share * loss).backward()
        return value

    def _parts(self, windows: Tensor) -> Iterator[tuple[Tensor, float]]:
        """The microbatches of a batch, and which share of it each of them is."""
        for part in windows.tensor_split(self.microbatches):
            yield part, len(part) / len(windows)

    def _loss(self, windows: Tensor) -> Tensor:
        windows = windows.to(self.device)
        logits = self.model(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    def _sample(self, windows: Tensor) -> None:
        """Other backward passes, at labels of the network's own, where a metric asks for them."""
        if self.optimizer.asks_for(*SAMPLED) and self.step % SAMPLE_EVERY == 1:
            with self.optimizer.sampled():
                for part, share in self._parts(windows):
                    logits = self.model(part[:, :-1].to(self.device)).flatten(0, 1)
                    (share * F.cross_entropy(logits, sampled_labels(logits))).backward()

    def _finite(self, loss: Tensor) -> float:
        value = loss.item()
        if not isfinite(value):
            raise self._diverged(f"the loss is {value} at step {self.step}")
        return value

    def _update(self) -> None:
        try:
            self.optimizer.step()
        except ArithmeticError as error:  # a gradient that is not finite; nothing was changed
            raise self._diverged(f"at step {self.step}, {error}") from error

    def _diverged(self, what: str) -> Diverged:
        return Diverged(f"{what}: training stopped, {self.kept()}; a smaller --lr may help")

    @torch.no_grad()
    def validate(self) -> float:
        """Nats per byte on the fixed windows of the validation text."""
        chosen = even_windows(self.text.validation, self.config.context, VALIDATION_WINDOWS)
        chunks = chosen.split(self.config.batch)
        total = sum(self._finite(self._loss(chunk)) * len(chunk) for chunk in chunks)
        return total / VALIDATION_WINDOWS

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def _update_norms(self, before: dict[str, Tensor]) -> dict[str, float]:
        self._require_finite_weights()
        return {
            name: update_norm(weight.detach() - before[name], self.geometry.get(name))
            for name, weight in self.model.named_parameters()
        }

    def kept(self) -> str:
        """Text that names the checkpoint a stopped run can resume from."""
        steps = checkpoint.steps_in(self.folder / CHECKPOINTS)
        if not steps:
            return "no checkpoint was made yet"
        return f"the last good checkpoint, step {steps[-1]}, is kept in {self.folder}"

    def _require_finite_weights(self) -> None:
        for name, weight in self.model.state_dict().items():
            if not weight.isfinite().all():
                raise self._diverged(f"{name} is not finite after step {self.step}")

    def _save(self) -> None:
        self._require_finite_weights()
        state = {
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        about = {
            "sha256": self.text.sha256,
            "seconds": self.seconds,
            "config": asdict(self.config),
        }
        made = checkpoint.Checkpoint(self.step, about, self.model.state_dict(), state)
        try:
            checkpoint.save(self.folder / CHECKPOINTS, made)
        except UserError as error:
            raise UserError(f"{error}; {self.kept()}") from error

    def _restore(self) -> None:
        found = checkpoint.load_newest(self.folder / CHECKPOINTS)
        if found is None:
            return
        # A folder from elsewhere may hold anything, which may fail in any way.
        with refusals_in_words(f"the checkpoint in {self.folder} does not fit: ", (Exception,)):
            self._refuse_other(found)
            self.model.load_state_dict(found.weights)
            self._load_optimizer(found.state["optimizer"])
            torch.set_rng_state(found.state["random"])
            self.step, self.seconds = found.step, float(found.about["seconds"])

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        """Load what the config does not say; ValueError where the checkpoint contradicts it."""
        groups = []
        own = self.optimizer.state_dict()["param_groups"]
        for ours, theirs in zip(own, saved["param_groups"], strict=True):
            added = {key: value for key, value in theirs.items() if key not in ours}
            differs = [k for k in ours if k != "lr" and ours[k] != theirs[k]]
            # What an optimizer adds while it steps is a memory, of tensors.
            differs += [k for k, v in added.items() if k != "initial_lr" and not _is_memory(v)]
            if differs:
                raise ValueError(f"in its param_groups, {', '.join(differs)} is not the config's")
            groups.append(added | ours)
        self.optimizer.load_state_dict({**saved, "param_groups": groups})

    def _refuse_other(self, found: checkpoint.Checkpoint) -> None:
        """Raise UserError for a checkpoint of another text, or made with other settings."""
        if found.about["sha256"] != self.text.sha256:
            raise UserError(
                f"the text is not the one that the run in {self.folder} began with "
                f"({self.text}): a run can only continue on the same bytes"
            )
        if differs := differences(self.config, Config(**found.about["config"])):
            raise UserError(
                f"{self.folder / CONFIG} was edited since step {found.step}: {differs}; a run "
                f"goes on with the settings that it began with: put them back, or begin a new one"
            )

    def _refuse_stale(self) -> None:
        """Raise UserError where another process took the run further since this one looked."""
        newest = max(checkpoint.steps_in(self.folder / CHECKPOINTS), default=0)
        if newest > self.step:
            raise UserError(
                f"another process has meanwhile taken the run in {self.folder} from step "
                f"{self.step} to {newest}: go on from there by --resume {self.folder}"
            )


def _is_memory(value: object) -> bool:
    return isinstance(value, Tensor) and bool(value.isfinite().all())


def build(config: Config, device: torch.device | str) -> tuple[GPT, SteepestDescent]:
    """The network and optimizer of a config; UserError if either refuses, or memory is short."""
    require_memory(config, available(torch.device(device)))
    with refusals_in_words():
        model = build_model(config).to(device)
    asked = f"{config.optimizer} with {config.options}: " if config.options else ""
    with refusals_in_words(asked):
        return model, RECIPES[config.optimizer](model, **config.recipe_options())


def microbatch_count(config: Config, optimizer: SteepestDescent) -> int:
    """Microbatches per batch.

    Raises UserError for one, where a metric compares them.
    """
    compares = optimizer.asks_for(MICROBATCHES, SAMPLED_MICROBATCHES)
    count = config.microbatches or (min(COMPARED, config.batch) if compares else 1)
    if compares and count < 2:
        raise UserError(
            f"{config.optimizer} compares the microbatches of a step, and a batch of "
            f"{config.batch} in {count} has none to compare: take 2 or more"
        )
    return count


def build_model(config: Config) -> GPT:
    """The byte-level GPT of a config."""
    return GPT(
        vocab=VOCABULARY,
        context=config.context,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
    )


def update_norm(update: Tensor, geometry: Geometry | None) -> float:
    """How far a weight moved, in its declared norm; where none is declared, in RMS of entries."""
    if geometry is None:
        return update.square().mean().sqrt().item()
    return geometry.norm(update).item()


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read now tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def sample(
    model: GPT, prompt: bytes, count: int, *, context: int, temperature: float = 0.7, seed: int = 0
) -> str:
    """`count` bytes that a model writes after a prompt; bytes that are no text show as a mark."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([list(prompt)], dtype=torch.int64)
    for _ in range(count):
        logits = model(tokens[:, -context:].to(device))[0, -1].float().cpu()
        chances = F.softmax(logits / temperature, dim=-1)
        chosen = torch.multinomial(chances, 1, generator=generator)
        tokens = torch.cat([tokens, chosen[None]], dim=1)
    return bytes(tokens[0].tolist()).decode("utf-8", errors="replace")
