"""How a setting that does not exist is refused, for the log and for tracing alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace_engines.near import near
from headrace_server.errors import InvalidInput

_MOST_CHARACTERS: Final = 100
"""A name that somebody sends may be of any length."""


def unknown_setting(what: str, name: str, known: Iterable[str]) -> InvalidInput:
    """Return the error for a setting that nobody knows; passed over, a misspelt name would mislead."""
    names = list(known)
    name = name[:_MOST_CHARACTERS]
    meant = near(name, names)
    hint = f" (did you mean {meant[0]!r}?)" if meant else ""
    return InvalidInput(f"there is no {what} {name!r}{hint}; there are: {', '.join(names)}")
