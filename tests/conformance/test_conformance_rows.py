"""Puts every row to its server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from oip.case import Case, Server, put
from oip.rows import ALL
from oip.wire import Outcome, Wire

ROWS = [pytest.param(row, id=f"{topic}: {row.name}") for topic, rows in ALL.items() for row in rows]


@pytest.mark.parametrize("row", ROWS)
def test_row(row: Case, wire_to: Callable[[Server], Wire], is_ours: bool) -> None:
    if row.only_ours and not is_ours:
        pytest.skip(row.only_ours)
    wire = wire_to(row.server)
    earlier: list[Outcome] = []
    try:
        for step in row.steps:
            earlier.append(put(step, wire, earlier, is_ours=is_ours))
    finally:
        for step in row.undo:
            put(step, wire, earlier, is_ours=is_ours)


def test_no_two_rows_share_a_name() -> None:
    assert [name for name, count in Counter(row.id for row in ROWS).items() if count > 1] == []
