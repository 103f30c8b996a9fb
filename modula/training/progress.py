"""Progress bar, log lines and summary of a training run."""

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text as Words

from modula.training.files import METRICS
from modula.training.records import Record, read_records
from modula.training.report import final_loss, loss_in_words, mean_speed
from modula.training.run import Run, sample

PROMPT = b"def "
SAMPLE_BYTES = 300


def train_with_progress(run: Run, console: Console) -> list[Record]:
    """Train to the end with a progress bar and a line at every validation; returns all records."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            run.config.optimizer, total=run.config.steps, completed=run.step, now=""
        )
        for record in run:
            progress.update(task, completed=record.step, now=record_in_words(record))
            if record.val_loss is not None:
                progress.console.print(
                    f"step {record.step:>6}  {record_in_words(record)}", highlight=False
                )
    return read_records(run.folder / METRICS)


def record_in_words(record: Record) -> str:
    """One record as a line of text."""
    parts = [f"loss {loss_in_words(record.loss, 3)}"]
    if record.val_loss is not None:
        parts.append(f"val {loss_in_words(record.val_loss, 3)}")
    return "  ".join([*parts, f"lr {record.lr:.3g}", f"{record.tokens_per_second:,.0f} tokens/s"])


def summary(records: list[Record]) -> str:
    """Summary of a finished run, in one line."""
    last, loss = records[-1], loss_in_words(final_loss(records))
    return (
        f"validation loss {loss} nats per byte after {last.step} steps, "
        f"{last.seconds:.1f} s of training, {mean_speed(records):,.0f} tokens/s"
    )


def show_sample(run: Run, console: Console) -> None:
    """Print text that the trained network generates."""
    text = sample(run.model, PROMPT, SAMPLE_BYTES, context=run.config.context)
    shown = "".join(c if c.isprintable() or c == "\n" else "�" for c in text.expandtabs(4))
    console.print(Panel(Words(shown), title="the network writes", title_align="left"))
