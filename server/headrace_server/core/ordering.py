"""Lets answers leave in the order in which their requests came, where a model is configured so."""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping, Sequence

from headrace_server.core.delivery import Answers, deliver
from headrace_server.core.request import Work
from headrace_server.errors import InferenceError


class Ordering:
    """Holds answers back until every request that came before has its own. Any thread may call it.

    One thread at a time hands out, without the lock, so that a transport may do what it likes; what
    others bring meanwhile is handed out by that one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: collections.deque[Work] = collections.deque()
        self._settled: dict[Work, bytes | InferenceError | None] = {}
        self._is_handing_out = False

    def expect(self, work: Work) -> None:
        """Let the work stand at the end of the line; calls are in the order in which requests came."""
        with self._lock:
            self._line.append(work)

    def deliver(self, answers: Answers) -> None:
        """Take final answers, and hand out whatever is due by now."""
        self._settle(dict(answers))

    def leave(self, works: Sequence[Work]) -> None:
        """Let work that gets no answer hold up nobody."""
        self._settle(dict.fromkeys(works))

    def _settle(self, settled: Mapping[Work, bytes | InferenceError | None]) -> None:
        for work in settled:
            work.data = ()
        with self._lock:
            self._settled.update(settled)
            if self._is_handing_out:
                return
            self._is_handing_out = True
        while due := self._due():
            deliver(due)

    def _due(self) -> Answers:
        """Return the answers at the head of the line; none ends the handing out."""
        due: list[tuple[Work, bytes | InferenceError]] = []
        with self._lock:
            while self._line and self._line[0] in self._settled:
                work = self._line.popleft()
                answer = self._settled.pop(work)
                if answer is not None:
                    due.append((work, answer))
            self._is_handing_out = bool(due)
        return due
