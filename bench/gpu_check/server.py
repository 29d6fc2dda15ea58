"""Rows a second of the server over gRPC on this machine, and how busy that keeps the GPU."""

from __future__ import annotations

import time
from typing import Final

from bench.gpu_check import stages
from bench.gpu_check.cases import find
from bench.gpu_check.record import Cell, Record
from bench.gpu_check.regions import CUDA_SHARED_MEMORY, SHARED_MEMORY
from bench.gpu_check.serving import MESSAGES, Load, Server, put_under, start
from bench.gpu_check.setting import Setting
from bench.gpu_check.titles import SERVER
from bench.gpu_check.watch import NVML_SECONDS, Look, busy, looking
from bench.http2 import LARGEST_CALL_BYTES
from headrace_engines.runtime.cuda import gpu, nvml

_WARM_UP: Final = 0.4
"""Of a load's time, at most."""
_SMALL: Final = (Load(MESSAGES, 1, 64, 2), Load(MESSAGES, 1, 1024, 4), Load(MESSAGES, 8, 256, 4))
_LARGE: Final = (
    Load(MESSAGES, 1, 512, 8),
    Load(SHARED_MEMORY, 8, 128, 4),
    Load(CUDA_SHARED_MEMORY, 8, 128, 4),
    Load(MESSAGES, 1, 64, 4),
    Load(SHARED_MEMORY, 1, 512, 4),
)


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the table SERVER with what comes of the case `subject`."""
    case = find(setting, subject)
    uuid = next((one.uuid for one in gpu.available() if one.index == setting.gpu), "")
    largest = stages.largest(setting, subject)
    with start(case, largest, setting) as server:
        platform = server.platform()
        loads = _LARGE if case.rows(1).nbytes > LARGEST_CALL_BYTES else _SMALL
        for load in [one for one in loads if one.rows <= largest]:
            with record.step(f"{case.name}, {load.rows} rows by {load.way}, {load.in_flight} in flight"):
                setting.check_time(1.5 * setting.server_seconds)
                cells = _under(server, load, uuid, setting.server_seconds)
                record.row(SERVER, model=case.name, platform=platform, by=load.way, rows=load.rows, **cells)


def _under(server: Server, load: Load, uuid: str, seconds: float) -> dict[str, Cell]:
    def look() -> Look:
        rows, _, computed_ns = server.statistics()
        sample = nvml.sample(uuid)
        return Look(time.perf_counter(), rows, computed_ns, sample.utilisation if sample else None)

    with looking(look) as looks:
        served = put_under(server, load, seconds)
    found = busy(looks, load.rows, load.rows * load.in_flight, min(NVML_SECONDS, _WARM_UP * seconds))
    return {
        "in flight": load.in_flight,
        "rows/s": round(served.rows_per_second),
        "p50 ms": round(served.p50_ms, 3),
        "p99 ms": round(served.p99_ms, 3),
        "mean batch": round(served.mean_batch, 1),
        "GPU busy %": None if found.percent is None else round(found.percent, 1),
        "NVML samples": found.samples,
        "computing %": None if found.computing_percent is None else round(found.computing_percent, 1),
        "server cores": round(served.server_cores, 2),
        "failed": served.failed,
    }
