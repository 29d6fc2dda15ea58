"""Text that others wrote, in a form that every line of a log and every message can hold."""

from __future__ import annotations

import re
from typing import Final

_OUT_OF_LINE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What ends or rewrites a line where it is shown, and what UTF-8 does not have."""
_BYTES: Final = range(0xDC80, 0xDD00)
"""How Python holds the bytes of a file's name that are no UTF-8."""


def printable(text: str) -> str:
    """Return the text with a backslash's escape for each sign that cannot stand in a line of UTF-8."""
    return _OUT_OF_LINE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    sign = found[0]
    return f"\\x{ord(sign) - 0xDC00:02x}" if ord(sign) in _BYTES else repr(sign)[1:-1]
