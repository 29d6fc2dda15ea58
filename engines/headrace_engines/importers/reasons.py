"""What a framework says of its own failure, cut to what a line of ours has room for."""

from __future__ import annotations

import re
from typing import Final

_MOST_CHARACTERS: Final = 300
_INVITATION: Final = re.compile(r",?\s*you may raise an iss?ue.*", re.IGNORECASE)
"""What exporters of scikit-learn end with: their authors can do nothing about a model here."""


def brief(error: BaseException) -> str:
    """Return the class and the first words of what was raised: most say too much for one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_MOST_CHARACTERS]}{'…' if len(text) > _MOST_CHARACTERS else ''}"


def first_line(error: BaseException) -> str:
    """Return the first line of what was raised; behind it come the stack traces of libraries."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _INVITATION.sub("", line).rstrip(" .")
