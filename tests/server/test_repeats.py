"""Lines that callers can bring about are written once a minute."""

from __future__ import annotations

import logging

from headrace_server.telemetry.repeats import Repeats


def line(text: str, *arguments: object, at: float, name: str = "grpc.one") -> logging.LogRecord:
    record = logging.LogRecord(name, logging.ERROR, "", 0, text, arguments, None)
    record.created = at
    return record


def test_one_line_of_a_kind_is_written_a_minute_and_tells_of_the_others() -> None:
    repeats = Repeats()
    texts = []
    for second in range(0, 181, 20):
        record = line("Invalid encoding on %s", second, at=1000.0 + second)
        if repeats.admits(record):
            texts.append(record.getMessage())
    told = " (and 2 lines like it before, which were left out)"
    assert texts == [
        "Invalid encoding on 0",
        *(f"Invalid encoding on {second}{told}" for second in (60, 120, 180)),
    ]


def test_kinds_are_apart_and_a_clock_that_was_put_back_silences_nobody() -> None:
    repeats = Repeats()
    assert repeats.admits(line("Invalid encoding on %s", b"%s", at=1000.0))
    assert repeats.admits(line("Invalid encoding on %s", b"%s", at=1000.0, name="grpc.two"))
    assert repeats.admits(line("Something else", at=1000.0))
    assert repeats.admits(line("Invalid encoding on %s", b"%s", at=900.0))
