"""Where commands write: results on stdout, everything about the work on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH = 160
"""Columns where nobody's terminal says how many there are: wide enough that no cell is wrapped."""


def results() -> Console:
    """Return the console for what was asked for."""
    return _console(stderr=False)


def progress() -> Console:
    """Return the console for progress, notes and timings."""
    return _console(stderr=True)


Cell = str | Text


def table(columns: Iterable[str], rows: Iterable[Sequence[Cell]], *, title: str | None = None) -> Table:
    """Return a table of texts; a column whose name ends in a space is aligned to the right."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column.rstrip(), justify="right" if column.endswith(" ") else "left")
    for row in rows:
        # A text from elsewhere may hold brackets, which rich would take for its markup.
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def human_size(size_bytes: int) -> str:
    """Return a size as people read it, in powers of 1024."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _console(*, stderr: bool) -> Console:
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if is_terminal else _PIPED_WIDTH)
