"""Puts every row to its server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from oip.case import Case, put
from oip.rows import ALL
from oip.wire import Outcome, Wire

from headrace_proto.names import INFERENCE_SERVICE

ROWS = [pytest.param(row, id=f"{topic}: {row.name}") for topic, rows in ALL.items() for row in rows]


@pytest.mark.parametrize("row", ROWS)
def test_row(row: Case, wire_to: Callable[..., Wire], is_ours: bool) -> None:
    if row.only_ours and not is_ours:
        pytest.skip(row.only_ours)
    put_row(row, wire_to(row.server), is_ours=is_ours)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_row_by_our_own_name(row: Case, wire_to: Callable[..., Wire], is_ours: bool) -> None:
    if not is_ours:
        pytest.skip("it has not our name")
    put_row(row, wire_to(row.server, INFERENCE_SERVICE), is_ours=True)


def put_row(row: Case, wire: Wire, *, is_ours: bool) -> None:
    """Take the row's steps, and undo what they changed."""
    earlier: list[Outcome] = []
    try:
        for step in row.steps:
            earlier.append(put(step, wire, earlier, is_ours=is_ours))
    finally:
        for step in row.undo:
            put(step, wire, earlier, is_ours=is_ours)


def test_no_two_rows_share_a_name() -> None:
    assert [name for name, count in Counter(row.id for row in ROWS).items() if count > 1] == []
