from __future__ import annotations

import pytest

from headrace_engines.importers.reasons import brief, first_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("bad rows\nStack trace:\n  [bt] 0x1", "bad rows"),
        (
            "it is not implemented yet. You may raise an issue at https://example.org.",
            "it is not implemented yet",
        ),
        ("init is not supported, you may raise an isue", "init is not supported"),
        ("", "ValueError"),
    ],
)
def test_the_first_line_is_told_and_no_invitation(said: str, told: str) -> None:
    assert first_line(ValueError(said)) == told


def test_what_is_long_is_cut() -> None:
    assert brief(ValueError("a\n  b")) == "ValueError: a b"
    assert brief(ValueError("x" * 400)) == f"ValueError: {'x' * 300}…"
