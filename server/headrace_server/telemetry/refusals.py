"""How a setting that does not exist is refused, for the log and for tracing alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from headrace_server.errors import InvalidInput


def unknown_setting(what: str, name: str, known: Iterable[str]) -> InvalidInput:
    """Return the error for a setting that nobody knows; passed over, a misspelt name would mislead."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InvalidInput(f"there is no {what} {name!r}{hint}; there are: {', '.join(names)}")
