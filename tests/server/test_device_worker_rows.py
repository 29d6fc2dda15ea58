"""Rows that stand on a GPU: who copies them into the batch, and what becomes of it where they are gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from scripted_devices import ScriptedDevice
from scripted_engines import PATIENCE_SECONDS, Answers, answered, rows_spec
from works import work_of

from headrace_engines.device_rows import DeviceRows, Placed
from headrace_engines.errors import EngineSpoilt, InputError
from headrace_server.core.model import Limits, Model
from headrace_server.core.workers import worker_for
from headrace_server.errors import EngineFailed


class Rows(DeviceRows):
    """Elements on a GPU; `gone` is what whoever reads them hears."""

    def __init__(self, *values: int, gpu: int = 0, gone: InputError | None = None) -> None:
        self._data = np.array(values, np.int64).tobytes()
        self._gpu = gpu
        self.gone = gone
        self.reads = 0

    @property
    def gpu(self) -> int:
        return self._gpu

    def __len__(self) -> int:
        return len(self._data)

    def address(self) -> int:
        if self.gone is not None:
            raise self.gone
        return 0

    def read(self) -> bytes:
        self.address()
        self.reads += 1
        return self._data


class PlacingDevice(ScriptedDevice):
    """Copies what is placed itself."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows_spec(rows))
        self.placed: list[list[int]] = []
        """Of each batch the bytes at which placed rows begin."""

    def submit(self, slot: int, rows: int, placed: Sequence[Placed] = ()) -> None:
        for one in placed:
            one.rows.address()
        buffer = self.inputs(slot)[0].reshape(-1).view(np.uint8)
        for one in placed:
            assert isinstance(one.rows, Rows)
            buffer[one.begin : one.begin + len(one.rows)] = np.frombuffer(one.rows._data, np.uint8)
        self.placed.append([one.begin for one in placed])
        super().submit(slot, rows)


@contextmanager
def answers(device: PlacingDevice, *requests: Rows | list[int]) -> Iterator[Answers]:
    """Execute these requests in one batch, as far as it holds them; answers are told by their places."""
    model = Model("m", "1", device.spec, "scripted", Limits(), takes_device_rows=True)
    came = Answers()
    for key, given in enumerate(requests):
        size = len(given) if isinstance(given, Rows) else 8 * len(given)
        work = work_of(model, came, rows=size // 8, size_bytes=size, reply=key)
        work.data = (given if isinstance(given, Rows) else np.array(given, np.int64).tobytes(),)
        work.rendering = object() if isinstance(given, Rows) else None
        model.submit(work)
    worker = worker_for(model, device, 0)
    worker.start()
    yield came
    model.close(drain=True)
    assert worker.join(PATIENCE_SECONDS)


def test_rows_on_the_engines_gpu_are_left_to_it() -> None:
    device, there = PlacingDevice(8), Rows(3, 4)
    with answers(device, [1, 2], there, [5]) as came:
        assert [came.rows_of(key) for key in range(3)] == [answered(1, 2), answered(3, 4), answered(5)]
    assert device.placed == [[16]]
    assert there.reads == 0


def test_rows_on_another_gpu_come_through_the_host() -> None:
    device, there, elsewhere = PlacingDevice(8), Rows(3), Rows(4, gpu=1)
    with answers(device, there, elsewhere) as came:
        assert [came.rows_of(key) for key in range(2)] == [answered(3), answered(4)]
    assert device.placed == [[0]]
    assert (there.reads, elsewhere.reads) == (0, 1)


def test_a_batch_without_any_is_copied_by_the_host_alone() -> None:
    device = PlacingDevice(8)
    with answers(device, [1], [2]) as came:
        assert came.rows_of(1) == answered(2)
    assert device.placed == [[]]


def test_rows_that_are_gone_fail_their_own_caller_who_is_told_why() -> None:
    device, gone = PlacingDevice(8), Rows(3, gone=InputError("input 'x': it is gone"))
    with answers(device, [1, 2], gone, Rows(5)) as came:
        error = came.error_of(1)
        assert isinstance(error, EngineFailed)
        assert "input 'x': it is gone" in str(error)
        assert [came.rows_of(key) for key in (0, 2)] == [answered(1, 2), answered(5)]


def test_a_renewed_engine_places_them_again() -> None:
    device = PlacingDevice(8)
    device.script["wait"].append(EngineSpoilt("spoilt", was_executed=False))
    with answers(device, [1], Rows(3, 4)) as came:
        assert [came.rows_of(key) for key in range(2)] == [answered(1), answered(3, 4)]
    assert device.placed == [[8], [8]]
