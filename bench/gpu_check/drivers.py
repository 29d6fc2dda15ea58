"""What calls into CUDA cost through each of the libraries that there are for it, and how best to wait."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from bench.gpu_check import opening
from bench.gpu_check.cases import cases
from bench.gpu_check.device import Device
from bench.gpu_check.engine import speed
from bench.gpu_check.record import Cell, Record
from bench.gpu_check.setting import Setting
from headrace_engines.runtime.cuda.driver import Driver, Stream

_BYTES: Final = 4096
_TIMES: Final = 200
_IN_GRAPH: Final = 8
_ENGINE_ROWS: Final = 32


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the tables "drivers" with what comes of the library `subject`."""
    with opening.through(subject, setting) as gpu:
        with record.step("calls"), gpu.use(gpu.generation) as driver:
            record.fact(f"driver {subject}", driver.name)
            with contextlib.closing(Device(driver)) as device:
                record.row("drivers, µs", library=subject, **_costs(device))
                record.row("waiting for a copy of a page, µs", library=subject, **_waiting(device))
        with (
            record.step("a graph of copies"),
            gpu.use(gpu.generation) as driver,
            contextlib.closing(Device(driver)) as device,
        ):
            record.row("a graph of 8 copies, µs", library=subject, **_graph(device))
        for case in list(cases(setting.cases))[:1]:
            with record.step(f"{case.name} through {subject}"):
                rows = min(_ENGINE_ROWS, setting.batches[-1])
                with contextlib.closing(opening.plan(case, gpu, rows, setting)) as engine:
                    cells = speed(engine, rows, setting.seconds)
                record.row(
                    "engine through each library", library=subject, model=case.name, rows=rows, **cells
                )


def _costs(device: Device) -> dict[str, Cell]:
    driver, stream, event = device.driver, device.stream(), device.event()

    def push_and_pop() -> None:
        driver.push()
        driver.pop()

    return {
        "push, pop": _microseconds(push_and_pop),
        "record an event": _microseconds(lambda: driver.record(event, stream)),
        "event that is done": _microseconds(lambda: driver.synchronize(event)),
    }


def _waiting(device: Device) -> dict[str, Cell]:
    """Compare a thread that sleeps until an event has happened with one that asks over and over."""
    driver, stream, event = device.driver, device.stream(), device.event()
    pinned, address = device.pinned(_BYTES), device.memory(_BYTES)
    pinned[:] = 1

    def copy_then(wait: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            driver.copy_in(address, pinned, stream)
            driver.record(event, stream)
            wait()

        return work

    def ask() -> None:
        while not driver.is_done(event):
            pass

    return {
        "sleeping": _microseconds(copy_then(lambda: driver.synchronize(event))),
        "sleeping, CPU": _cpu_microseconds(copy_then(lambda: driver.synchronize(event))),
        "asking": _microseconds(copy_then(ask)),
        "asking, CPU": _cpu_microseconds(copy_then(ask)),
    }


def _graph(device: Device) -> dict[str, Cell]:
    driver, stream, event = device.driver, device.stream(), device.event()
    pinned, address = device.pinned(_BYTES), device.memory(_BYTES)
    pinned[:] = 1

    def copies() -> None:
        for _ in range(_IN_GRAPH):
            driver.copy_in(address, pinned, stream)

    driver.begin_capture(stream)
    copies()
    graph = driver.end_capture(stream)
    found: dict[str, Cell] = {
        "call by call, host": _microseconds(lambda: _done(driver, copies, stream, event)),
        "launched, host": _microseconds(
            lambda: _done(driver, lambda: driver.launch(graph, stream), stream, event)
        ),
    }
    driver.destroy_graph(graph)
    return found


def _done(driver: Driver, work: Callable[[], None], stream: Stream, event: Any) -> None:
    work()
    driver.record(event, stream)
    driver.synchronize(event)


def _microseconds(work: Callable[[], object]) -> float:
    """Return the median of single executions on the host's clock, after a warm-up."""
    taken = []
    for _ in range(_TIMES + _TIMES // 10):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return round(statistics.median(taken[_TIMES // 10 :]) * 1e6, 2)


def _cpu_microseconds(work: Callable[[], object]) -> float:
    """Return what one execution takes of this thread's processor time, on average."""
    begun = time.thread_time()
    for _ in range(_TIMES):
        work()
    return round((time.thread_time() - begun) / _TIMES * 1e6, 2)
