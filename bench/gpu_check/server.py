"""Rows a second of the server over gRPC on this machine, and how busy that keeps the GPU."""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Iterator
from typing import Final

from bench.gpu_check.cases import find
from bench.gpu_check.record import Record
from bench.gpu_check.regions import CUDA_SHARED_MEMORY, SHARED_MEMORY
from bench.gpu_check.serving import MESSAGES, Load, put_under, start
from bench.gpu_check.setting import Setting
from bench.gpu_check.titles import SERVER
from bench.http2 import LARGEST_CALL_BYTES
from headrace_engines.runtime.cuda import gpu, nvml

_SAMPLE_SECONDS: Final = 0.1
_SMALL: Final = (Load(MESSAGES, 1, 64, 2), Load(MESSAGES, 1, 1024, 4), Load(MESSAGES, 8, 256, 4))
_LARGE: Final = (
    Load(MESSAGES, 1, 64, 4),
    Load(MESSAGES, 1, 512, 8),
    Load(SHARED_MEMORY, 1, 512, 4),
    Load(SHARED_MEMORY, 8, 128, 4),
    Load(CUDA_SHARED_MEMORY, 8, 128, 4),
)


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the table SERVER with what comes of the case `subject`."""
    case = find(setting, subject)
    uuid = next((one.uuid for one in gpu.available() if one.index == setting.gpu), "")
    with start(case, setting) as server:
        platform = server.platform()
        loads = _LARGE if case.rows(1).nbytes > LARGEST_CALL_BYTES else _SMALL
        for load in [one for one in loads if one.rows <= setting.batches[-1]]:
            with record.step(f"{case.name}, {load.rows} rows by {load.way}, {load.in_flight} in flight"):
                with _busy(uuid) as samples:
                    served = put_under(server, load, setting.server_seconds)
                record.row(
                    SERVER,
                    model=case.name,
                    platform=platform,
                    by=load.way,
                    rows=load.rows,
                    **{
                        "in flight": load.in_flight,
                        "rows/s": round(served.rows_per_second),
                        "p50 ms": round(served.p50_ms, 3),
                        "p99 ms": round(served.p99_ms, 3),
                        "mean batch": round(served.mean_batch, 1),
                        "GPU busy %": statistics.median(samples) if samples else None,
                        "computing %": round(100 * served.compute_share, 1),
                        "server cores": round(served.server_cores, 2),
                        "failed": served.failed,
                    },
                )


@contextlib.contextmanager
def _busy(uuid: str) -> Iterator[list[float]]:
    """Yield the GPU's utilisation in percent, sampled while the block is executed."""
    samples: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            sample = nvml.sample(uuid)
            if sample is not None and sample.utilisation is not None:
                samples.append(100 * sample.utilisation)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield samples
    finally:
        done.set()
        watcher.join()
