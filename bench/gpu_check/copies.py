"""What copies between host and GPU cost: pinned and pageable, one for a batch and one for each row."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from typing import Final

import numpy as np

from bench.gpu_check import opening
from bench.gpu_check.device import Device
from bench.gpu_check.pace import timed
from bench.gpu_check.pageable import Pageable
from bench.gpu_check.record import Cell, Record
from bench.gpu_check.setting import Setting

_SIZES: Final = (4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
_ROWS: Final = ((256, 64), (256, 256), (3136, 64), (3136, 256), (602_112, 8), (602_112, 64))
"""Bytes of a row, and rows: those of the models that are served."""
_FILLED_BYTES: Final = 16 << 20
_TOGETHER: Final = 10
_MOST_PAGEABLE: Final = 500


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the tables "copies" and "copies of rows"."""
    with (
        opening.shared(setting) as gpu,
        gpu.use(gpu.generation) as driver,
        contextlib.closing(Device(driver)) as device,
    ):
        pageable = None
        with record.step("memory that is not pinned"):
            pageable = Pageable()
        for size in _SIZES:
            with record.step(f"{size} bytes"):
                _sizes(device, pageable, record, size, setting.seconds)
        for row_bytes, rows in _ROWS:
            with record.step(f"{rows} rows of {row_bytes} bytes"):
                _rows(device, record, row_bytes, rows, setting.seconds)
        with record.step("filling pinned memory"):
            source, pinned = np.ones(_FILLED_BYTES, np.uint8), device.pinned(_FILLED_BYTES)
            pinned[:] = source
            seconds = min(timed(lambda: np.copyto(pinned, source)) for _ in range(5))
            record.fact("filling pinned memory GB/s", round(_FILLED_BYTES / seconds / 1e9, 2))


def _sizes(device: Device, pageable: Pageable | None, record: Record, size: int, seconds: float) -> None:
    driver, stream, other = device.driver, device.stream(), device.stream()
    first, second = device.memory(size), device.memory(size)
    pinned, back = device.pinned(size), device.pinned(size)
    pinned[:] = 1

    def speed(work: Callable[[], None]) -> float:
        return round(size / device.microseconds(stream, work, seconds)[0] / 1000, 3)

    cells: dict[str, Cell] = {
        "pinned in": speed(lambda: driver.copy_in(first, pinned, stream)),
        "pinned out": speed(lambda: driver.copy_out(back, first, stream)),
    }
    if pageable is not None:
        with record.step(f"{size} bytes that are not pinned"):
            cells |= _pageable(pageable, first, size, seconds)

    began, ended = device.event(), device.event()
    driver.record(began, stream)
    driver.wait_event(other, began)
    for _ in range(_TOGETHER):
        driver.copy_in(second, pinned, stream)
        driver.copy_out(back, first, other)
    driver.record(ended, other)
    driver.wait_event(stream, ended)
    driver.record(ended, stream)
    driver.synchronize(ended)
    together = 2 * _TOGETHER * size / max(driver.milliseconds(began, ended), 1e-6) / 1e6
    record.row("copies, GB/s", KiB=size >> 10, **cells, **{"in and out at once": round(together, 3)})


def _pageable(copies: Pageable, address: int, size: int, seconds: float) -> dict[str, Cell]:
    """Measure by the host's clock: these copies have been made when the call returns."""
    memory = np.ones(size, np.uint8)

    def speed(copy: Callable[[], None]) -> float:
        once = min(timed(copy) for _ in range(3))
        times = max(3, min(_MOST_PAGEABLE, round(seconds / max(once, 1e-7))))
        return round(size / statistics.median(timed(copy) for _ in range(times)) / 1e9, 3)

    return {
        "pageable in": speed(lambda: copies.copy_in(address, memory)),
        "pageable out": speed(lambda: copies.copy_out(memory, address)),
    }


def _rows(device: Device, record: Record, row_bytes: int, rows: int, seconds: float) -> None:
    driver, stream = device.driver, device.stream()
    pinned, address = device.pinned(row_bytes * rows), device.memory(row_bytes * rows)
    pinned[:] = 1
    parts = [
        (address + start, pinned[start : start + row_bytes]) for start in range(0, len(pinned), row_bytes)
    ]

    def one_by_one() -> None:
        for place, part in parts:
            driver.copy_in(place, part, stream)

    whole, whole_host = device.microseconds(stream, lambda: driver.copy_in(address, pinned, stream), seconds)
    each, each_host = device.microseconds(stream, one_by_one, seconds)
    record.row(
        "copying a batch, µs",
        **{
            "row bytes": row_bytes,
            "rows": rows,
            "one copy": round(whole, 2),
            "a copy a row": round(each, 2),
            "one copy, host": round(whole_host, 2),
            "a copy a row, host": round(each_host, 2),
        },
    )
