"""Fills staging buffers with batches of which some rows stand on a GPU: in CUDA shared memory of clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace_engines.device_rows import DeviceRows, Placed
from headrace_engines.errors import DeviceError, EngineSpoilt, ExecutionError
from headrace_server.core.request import Work


def fill(buffers: Sequence[memoryview], works: Sequence[Work], gpu: int) -> list[Placed]:
    """Copy the rows of a batch into its staging buffers, but for those on this GPU; return where they belong.

    Raises InputError, or ExecutionError, where rows cannot be had any more.
    """
    placed: list[Placed] = []
    for position, buffer in enumerate(buffers):
        offset = 0
        for work in works:
            data: Any = work.data[position]
            end = offset + len(data)
            if not isinstance(data, DeviceRows):
                buffer[offset:end] = data
            elif data.gpu == gpu:
                placed.append(Placed(position, offset, data))
            else:
                buffer[offset:end] = _from_elsewhere(data)
            offset = end
    return placed


def _from_elsewhere(rows: DeviceRows) -> bytes:
    """Read rows of another GPU, whose failures are not those of the one that computes."""
    try:
        return rows.read()
    except (EngineSpoilt, DeviceError) as error:
        raise ExecutionError(f"rows on GPU {rows.gpu} cannot be read: {error}") from error
