"""Requests of a sequence: the server keeps state between them, so they differ from all others.

One must not be executed twice, and all must reach the server that has the state. So none is sent again,
and a client that chooses among servers refuses them.
"""

from __future__ import annotations

from typing import Final

from headrace.errors import InvalidInput
from headrace.requests import Parameters

SEQUENCE_PARAMETER: Final = "sequence_id"
"""The protocol's request parameter that says which sequence a request belongs to; 0 and "": none."""


def is_of_a_sequence(parameters: Parameters | None) -> bool:
    """Say whether a request with these parameters belongs to a sequence, and so must be sent once."""
    given = parameters.get(SEQUENCE_PARAMETER) if parameters else None
    return isinstance(given, int | str) and not isinstance(given, bool) and bool(given)


def check_sequence(parameters: Parameters | None, *, one_server: bool) -> bool:
    """Say whether a request belongs to a sequence.

    InvalidInput if it does and `one_server` says that there is a choice.
    """
    found = is_of_a_sequence(parameters)
    if found and not one_server:
        raise InvalidInput(
            f"parameter {SEQUENCE_PARAMETER!r}: this client chooses a server for each request, and a "
            'sequence has to stay on one: use a client of that server alone, such as Client("host:port")'
        )
    return found
