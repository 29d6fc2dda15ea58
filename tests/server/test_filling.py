"""Batches of which some rows stand on a GPU: copied there from place to place, or read from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from scripted_devices import ScriptedDevice
from scripted_engines import PATIENCE_SECONDS, Answers, answered, rows_spec
from works import work_of

from headrace_engines.device_rows import DeviceRows
from headrace_engines.errors import DeviceError, EngineSpoilt, InputError
from headrace_server.core.filling import fill
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import Work
from headrace_server.core.workers import worker_for
from headrace_server.errors import EngineFailed

GPU = 1


class OnGpu(DeviceRows):
    """Rows of one INT64 each, on a GPU."""

    def __init__(self, *values: int, gpu: int = GPU, error: Exception | None = None) -> None:
        self._data = np.array(values, np.int64).tobytes()
        self._gpu = gpu
        self._error = error

    @property
    def gpu(self) -> int:
        return self._gpu

    def __len__(self) -> int:
        return len(self._data)

    def address(self) -> int:
        return 0

    def read(self) -> bytes:
        if self._error is not None:
            raise self._error
        return self._data


MODEL = Model("m", "1", rows_spec(8), "scripted", Limits(), takes_device_rows=True)


def work(key: str, data: DeviceRows | bytes, sink: Answers | None = None, model: Model = MODEL) -> Work:
    made = work_of(model, sink or Answers(), rows=len(data) // 8, reply=key)
    made.data = (data,)  # type: ignore[assignment]  # rows on a GPU have a length, which is all that is asked
    made.rendering = "in shared memory"
    return made


def host(*values: int) -> bytes:
    return np.array(values, np.int64).tobytes()


def test_what_stands_on_the_gpu_is_placed_and_all_else_is_copied() -> None:
    rows, elsewhere = OnGpu(3, 4), OnGpu(5, gpu=0)
    works = [work("a", host(1, 2)), work("b", rows), work("c", elsewhere), work("d", host(6))]
    buffer = np.zeros(8, np.int64)
    placed = fill([buffer.view(np.uint8).data], works, GPU)
    assert placed == [(0, 16, rows)]
    assert buffer.tolist() == [1, 2, 0, 0, 5, 6, 0, 0]


@contextmanager
def serving() -> Iterator[tuple[Model, ScriptedDevice, Answers]]:
    device = ScriptedDevice(rows_spec(8), gpu=GPU)
    model, answers = Model("m", "1", device.spec, "scripted", Limits(), takes_device_rows=True), Answers()
    worker = worker_for(model, device, 0)
    yield model, device, answers
    worker.start()
    model.close(drain=True)
    assert worker.join(PATIENCE_SECONDS)


def test_callers_whose_rows_are_on_the_gpu_share_a_batch_with_others() -> None:
    with serving() as (model, device, answers):
        for key, data in (("a", host(1)), ("b", OnGpu(2, 3)), ("c", OnGpu(4, gpu=0)), ("d", host(5))):
            model.submit(work(key, data, answers, model))
    assert [answers.rows_of(key) for key in "abcd"] == [
        answered(1), answered(2, 3), answered(4), answered(5)
    ]  # fmt: skip
    assert device.submitted == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "rows",
    [
        OnGpu(2, error=InputError("the region was given up")),
        OnGpu(2, gpu=0, error=InputError("the region was given up")),
        OnGpu(2, gpu=0, error=EngineSpoilt("GPU 0 is spoilt")),
        OnGpu(2, gpu=0, error=DeviceError("GPU 0 is lost")),
    ],
    ids=["not there", "not there elsewhere", "elsewhere spoilt", "elsewhere lost"],
)
def test_invariant_3_rows_that_cannot_be_had_cost_nobody_else_anything(rows: OnGpu) -> None:
    with serving() as (model, device, answers):
        for key, data in (("a", host(1)), ("b", rows), ("c", host(3))):
            model.submit(work(key, data, answers, model))
    assert isinstance(answers.error_of("b"), EngineFailed)
    assert answers.rows_of("a") == answered(1)
    assert answers.rows_of("c") == answered(3)
    assert model.lost is None
    assert device.renewals == 0
