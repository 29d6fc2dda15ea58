"""CUDA graphs of executions: noted once, launched with one call.

A graph answers for what it was noted from only if that is shown: its answers are compared with those of the
context. Where the library or the driver does not let an execution be noted, contexts are executed as they
are, and the log says so once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.errors import ExecutionError
from headrace_engines.runtime.cuda.driver import CudaError, Driver, Fault, Stream
from headrace_engines.runtime.holdings import Holdings
from headrace_engines.samples import is_floating

_log = logging.getLogger(__name__)

_TOLERANCE: Final = 1e-3
"""Of an output's range: how far the answers of the same kernels may differ, which add in another order."""


def captured(
    driver: Driver, holdings: Holdings, context: Any, stream: Stream, execute: Callable[[], None]
) -> Any:
    """Return the graph of what `execute` puts into the stream; the context has been executed before.

    Raises ExecutionError where it cannot be noted, MemoryExhausted or a CudaError of memory where that is
    for want of memory.
    """
    if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream.handle):
        raise ExecutionError("the library says that this plan cannot be captured")
    refusal: ExecutionError | None = None
    try:
        driver.begin_capture(stream)
        try:
            execute()
        except ExecutionError as error:
            refusal = error
        except BaseException:
            with contextlib.suppress(CudaError):  # what was raised tells more
                holdings.graph(driver.end_capture(stream))
            raise
        graph = holdings.graph(driver.end_capture(stream))
    except CudaError as error:
        if error.fault is not Fault.CALL:
            raise
        raise (refusal or ExecutionError(str(error))) from error
    if refusal:
        holdings.destroy_graph(driver, graph)
        raise refusal
    return graph


def check_alike(answers: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> None:
    """Raise ExecutionError unless a graph's answers are those of the context."""
    for found, wanted in zip(answers, expected, strict=True):
        if not _are_alike(found, wanted):
            raise ExecutionError("the captured graph answers otherwise than the plan does")


def _are_alike(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    if not is_floating(wanted.dtype):
        return np.array_equal(found, wanted)
    a, b = found.astype(np.float32), wanted.astype(np.float32)
    magnitudes = np.abs(b[np.isfinite(b)])
    allowed = _TOLERANCE * float(magnitudes.max(initial=0.0))
    return np.allclose(a, b, rtol=0.0, atol=allowed, equal_nan=True)
