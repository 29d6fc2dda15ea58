"""Whether a GPU does what it is told: bytes are copied to it, on it and back, and compared."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from headrace_engines.runtime.cuda.driver import CudaError, Driver, Fault

_BYTES: Final = 1 << 20
_PATIENCE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.001
"""Looked, and not waited: a GPU that is gone need not wake a waiter."""


def prove(driver: Driver) -> None:
    """Raise CudaError unless the GPU answers in a few seconds, and with the bytes that it was sent.

    The context is retained, and not the thread's yet. What was allocated stays where this fails.
    """
    driver.push()
    try:
        _copy_there_and_back(driver)
    finally:
        driver.pop()


def _copy_there_and_back(driver: Driver) -> None:
    sent, received = driver.allocate_pinned(_BYTES), driver.allocate_pinned(_BYTES)
    first, second = driver.allocate(_BYTES), driver.allocate(_BYTES)
    stream, event = driver.stream(), driver.event()
    sent[:] = np.arange(_BYTES, dtype=np.uint32).view(np.uint8)[:_BYTES]
    received[:] = 0
    driver.copy_in(first, sent, stream)
    driver.copy_within(second, first, _BYTES, stream)
    driver.copy_out(received, second, stream)
    driver.record(event, stream)
    _wait(driver, event)
    if not np.array_equal(sent, received):
        raise CudaError(
            "cuMemcpyDtoHAsync", "wrong bytes", Fault.DEVICE, "what came back is not what was sent"
        )
    driver.destroy_event(event)
    driver.destroy_stream(stream)
    for address in (first, second):
        driver.free(address)
    for memory in (sent, received):
        driver.free_pinned(memory)


def _wait(driver: Driver, event: object) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not driver.is_done(event):
        if time.monotonic() > deadline:
            raise CudaError("cuEventQuery", "no answer", Fault.DEVICE, f"for {_PATIENCE_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)
