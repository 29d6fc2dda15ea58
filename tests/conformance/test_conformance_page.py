"""docs/compatibility.md tells just the differences that the rows know."""

from __future__ import annotations

from pathlib import Path

import pytest
from oip import differences
from oip.case import Case, Difference, Step
from oip.rows import ALL

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
HEAD = "| what | Headrace | Triton | why |"
DECLARED = {name: one for name, one in vars(differences).items() if isinstance(one, Difference)}


def line(one: Difference) -> str:
    return f"| {one.what} | {one.ours} | {one.tritons} | {one.why} |"


def steps(row: Case) -> tuple[Step, ...]:
    return row.steps + row.undo


def test_the_page_has_a_line_for_each_difference_and_no_other() -> None:
    _, _, table = PAGE.read_text(encoding="utf-8").partition(HEAD)
    told = table.partition("\n\n")[0].splitlines()[2:]  # what is left of the head, and the line below it
    assert told == [*dict.fromkeys(map(line, DECLARED.values()))]


@pytest.mark.parametrize("name", DECLARED)
def test_each_difference_is_what_a_row_shows(name: str) -> None:
    shown = [step.differs for rows in ALL.values() for row in rows for step in steps(row)]
    assert any(one is DECLARED[name] for one in shown)


def test_each_line_is_told_once() -> None:
    whats = [one.what for one in {line(one): one for one in DECLARED.values()}.values()]
    assert len(whats) == len(set(whats))
