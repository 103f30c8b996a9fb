"""A table that fits a width: first it leaves out columns, then it wraps what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

COMFORTABLE = 24  # letters below which a cell is not wrapped
FRAME = 3  # columns that a border and its two spaces take


def fitting_table(
    columns: Mapping[str, Sequence[str | Text]],
    width: int,
    dispensable: Sequence[str],
    *,
    title: str,
    caption: str,
) -> Table:
    """A rich table of these columns, by heading, in at most `width` letters.

    dispensable  headings that may be left out, the most telling first; of these, a column that
                 says the same everywhere is the first to go.  The caption names what is left out

    Words are never cut short: cells are wrapped between words, and inside a word where that alone
    is wider than its column.  A string is shown as it is, not as markup; a Text in its style.
    """
    words = {h: [str(cell) for cell in cells] for h, cells in columns.items()}
    widths = {h: FRAME + _comfortable_width(h, cells) for h, cells in words.items()}
    shown = {heading for heading in columns if heading not in dispensable}
    for heading in sorted(
        set(dispensable) & set(columns),
        key=lambda h: (len(set(words[h])) <= 1, dispensable.index(h)),
    ):
        if sum(widths[h] for h in {*shown, heading}) < width:
            shown.add(heading)
    left_out = [_in_words(h, cells) for h, cells in words.items() if h not in shown]
    if left_out:
        caption += f"\nleft out: {', '.join(left_out)}"
    wide = not left_out
    table = Table(title=title, caption=caption, show_edge=wide, pad_edge=wide)
    for heading in columns:
        if heading in shown:
            table.add_column(heading, overflow="fold")
    for cells in zip(*(columns[h] for h in columns if h in shown), strict=True):
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return table


def _in_words(heading: str, cells: Sequence[str]) -> str:
    same = set(cells)
    return f"{heading} ({same.pop() or 'none'})" if len(same) == 1 else heading


def _comfortable_width(heading: str, cells: Sequence[str]) -> int:
    """Letters that a column needs so that nothing short and no word is broken."""
    texts = (heading, *cells)
    longest_word = max(cell_len(word) for text in texts for word in text.split() or [""])
    return max(longest_word, min(COMFORTABLE, max(map(cell_len, texts))))
