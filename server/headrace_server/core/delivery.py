"""Hands answers to the transports that asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from headrace_server.core.request import State, Work
from headrace_server.errors import InferenceError

_logger = logging.getLogger(__name__)

Answers = Sequence[tuple[Work, bytes | InferenceError]]


def deliver(answers: Answers) -> None:
    """Hand each sink its answers, in one call. A sink that fails costs the others nothing."""
    by_sink: dict[int, list[tuple[Work, bytes | InferenceError]]] = {}
    for answer in answers:
        answer[0].state = State.ENDED
        answer[0].data = ()
        by_sink.setdefault(id(answer[0].sink), []).append(answer)
    for mine in by_sink.values():
        try:
            mine[0][0].sink.deliver(mine)
        except Exception:
            _logger.exception("a transport did not take %d answers", len(mine))
