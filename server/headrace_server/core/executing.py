"""What an instance of a model has in hand, for whoever looks while it executes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Executing(NamedTuple):
    """An execution that goes on."""

    instance: int
    since_ns: int
    """When it began or, if that was later, the instance gave its last answer; on the monotonic clock."""
    requests: int
    """How many have no final answer."""


Look = Callable[[], Executing | None]
"""Tells what one instance executes, None while it waits. Any thread may call it."""
