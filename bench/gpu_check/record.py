"""What a part found, written line by line as it is found: a process that is killed leaves what it had."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

Cell = str | int | float | bool | None
Row = dict[str, Cell]
"""A line of a table: its cells by the names of their columns."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that raised, and what."""

    step: str
    error: str


@dataclass(slots=True)
class Found:
    """What a record holds: rows by the titles of their tables, and the steps that failed, or did not end."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    has_ended: bool = False


class Record:
    """The part's own end of it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def row(self, table: str, **cells: Cell) -> None:
        """Add a line to a table; columns stand in the order in which they first come."""
        self._write({"table": table, "row": cells})

    def fact(self, name: str, value: Any) -> None:
        """Note something that is no line of a table; `value` is what JSON can hold."""
        self._write({"fact": name, "value": value})

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Do something that may fail without keeping what follows it from being done."""
        self._write({"begun": name})
        try:
            yield
        except Exception as error:
            _log.exception("%s failed", name)
            self._write({"failed": name, "error": " ".join(f"{type(error).__name__}: {error}".split())})
        else:
            self._write({"done": name})

    def end(self) -> None:
        """Note that the part has come to its end."""
        self._write({"ended": True})
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")


def read(path: Path) -> Found:
    """Return what was written, even if the writer was killed within a line."""
    found = Found()
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return found
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            break
        _take(found, line)
    return found


def _take(found: Found, line: dict[str, Any]) -> None:
    match line:
        case {"table": table, "row": row}:
            found.tables.setdefault(table, []).append(row)
        case {"fact": name, "value": value}:
            found.facts[name] = value
        case {"begun": name}:
            found.unfinished.append(name)
        case {"failed": name, "error": error}:
            found.failures.append(Failure(name, error))
            found.unfinished.remove(name)
        case {"done": name}:
            found.unfinished.remove(name)
        case {"ended": True}:
            found.has_ended = True
