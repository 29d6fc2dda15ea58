"""Hands answers to the transports that asked."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from headrace_server.core.failures import report
from headrace_server.core.request import ENDED, Work
from headrace_server.errors import InferenceError

_logger = logging.getLogger(__name__)

Answers = Sequence[tuple[Work, bytes | InferenceError]]


def encode(work: Work, outputs: Sequence[NDArray[Any]], *, is_last: bool = True) -> bytes | InferenceError:
    """Return the bytes of an answer with these outputs, in the order in which the work wanted them.

    What a sink cannot encode, or has no room for, is that caller's error alone. The last answer of a
    request is admitted: it is told to be a success only when it will be delivered.
    """
    try:
        answer = work.sink.encode(work, outputs)
        if is_last:
            work.sink.admit(work, answer)
    except InferenceError as error:
        return error
    except Exception as error:
        return report(work.model.facts.name, "the answer could not be encoded", error)
    else:
        return answer


def deliver(answers: Answers) -> None:
    """Hand each sink its answers, in one call. A sink that fails costs the others nothing."""
    by_sink: defaultdict[int, list[tuple[Work, bytes | InferenceError]]] = defaultdict(list)
    for answer in answers:
        work = answer[0]
        work.state = ENDED
        work.data = ()
        by_sink[id(work.sink)].append(answer)
    for mine in by_sink.values():
        try:
            mine[0][0].sink.deliver(mine)
        except Exception:
            _logger.exception("a transport did not take %d answers", len(mine))
