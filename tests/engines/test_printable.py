from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_engines.printable import printable
from headrace_engines.publication import check_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("café model-1.2 \u3000 👩\u200d🔬", "café model-1.2 \u3000 👩\u200d🔬"),
        ("a\\n", "a\\n"),
        ("a\r\nb\tc\0", "a\\r\\nb\\tc\\x00"),
        ("\x1b[2J\x7f\x85\u2028", "\\x1b[2J\\x7f\\x85\\u2028"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_cannot_stand_in_a_line_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


@settings(deadline=None)
@given(st.text(st.characters()))
def test_every_text_becomes_one_line_of_utf_8(text: str) -> None:
    shown = printable(text)
    assert len(shown.encode().decode().splitlines()) <= 1
    assert printable(shown) == shown


@pytest.mark.parametrize("name", ["", ".m", "a/b", "a\\b", "a\0", "new\nline", "caf\udce9"])
def test_names_that_no_model_has(name: str) -> None:
    with pytest.raises(ValueError, match="the name of a folder, in UTF-8, not starting with a dot"):
        check_name(name)
