"""What was found, as a JSON document and as tables for reading."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench.gpu_check.goals import summary
from bench.gpu_check.record import Cell, Row

JSON_NAME: Final = "gpu-check.json"
TEXT_NAME: Final = "gpu-check.txt"
_COLUMNS: Final = 200
Document = dict[str, Any]


def document(parts: Sequence[Document], *, started: str, is_complete: bool) -> Document:
    """Return everything: `parts` are those of `Outcome.document`, `is_complete` whether all were tried."""
    return {
        "started": started,
        "complete": is_complete,
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "summary": summary(parts),
        "parts": list(parts),
    }


def save(whole: Document, folder: Path) -> None:
    """Write both files, each in one step, so that whoever is killed has left the last ones whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((JSON_NAME, json.dumps(whole, indent=1) + "\n"), (TEXT_NAME, text(whole))):
        fresh = folder / f".{name}"
        fresh.write_text(content)
        fresh.replace(folder / name)


def text(whole: Document) -> str:
    """Return the summary, what failed, and a table of each kind."""
    out = io.StringIO()
    console = Console(file=out, width=_COLUMNS, highlight=False, markup=False, emoji=False)
    for line in whole["summary"]:
        console.print(line, soft_wrap=True)
    if not whole["complete"]:
        console.print("not complete: more was to be tried", soft_wrap=True)
    for line in problems(whole["parts"]):
        console.print(f"! {line}", soft_wrap=True)
    for title, rows in tables(whole["parts"]).items():
        console.print(_table(title, rows))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def tables(parts: Sequence[Document]) -> dict[str, list[Row]]:
    """Return the rows of all parts by the titles of their tables."""
    joined: dict[str, list[Row]] = {}
    for part in parts:
        for title, rows in part["tables"].items():
            joined.setdefault(title, []).extend(rows)
    return joined


def problems(parts: Sequence[Document]) -> list[str]:
    """Return a line for each thing that failed; parts that failed alike share one."""
    alike: dict[str, list[str]] = {}
    for part in parts:
        first = part["failures"][:1]
        more = len(part["failures"]) - 1
        reasons = [
            f"{one['step']}: {one['error']}{f' (and {more} more)' if more > 0 else ''}" for one in first
        ]
        for reason in (*([part["fate"]] if part["fate"] else ()), *reasons):
            alike.setdefault(reason, []).append(part["part"])
    return [f"{', '.join(names)}: {reason}" for reason, names in alike.items()]


def _table(title: str, rows: Sequence[Row]) -> Table:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in columns:
        is_text = any(isinstance(row.get(column), str) for row in rows)
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_told(row.get(column)) for column in columns))
    return table


def _told(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case bool():
            return "yes" if cell else "NO"
        case float():
            return f"{cell:,.4g}" if abs(cell) < 1e4 else f"{cell:,.0f}"
        case int():
            return f"{cell:,}"
    return cell
