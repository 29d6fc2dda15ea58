"""Whose cancellation it is: a task's own, or that of something it waits for."""

from __future__ import annotations

import asyncio


def cancelled_by_caller() -> bool:
    """Say whether a CancelledError is meant for this task; gRPC raises the same for a closed connection."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
