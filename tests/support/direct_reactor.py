"""A reactor without a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")


class DirectReactor:
    """Does at once what is to be run, and what is to be done soon when the test says so."""

    quiet_turns = 1

    def __init__(self) -> None:
        self._soon: list[Callable[[], object]] = []

    def run(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        function(*arguments)

    def soon(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        self._soon.append(lambda: function(*arguments))

    def later(self, seconds: float, function: Callable[[*Ts], object], *arguments: *Ts) -> threading.Timer:
        timer = threading.Timer(seconds, function, arguments)
        timer.daemon = True
        timer.start()
        return timer

    def turn(self) -> bool:
        """Do what was to be done soon; return whether there was anything."""
        soon, self._soon = self._soon, []
        for function in soon:
            function()
        return bool(soon)
