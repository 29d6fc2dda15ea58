"""Other processes' memory on a GPU, opened, copied and given up."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver, present
from fake_memory import Bytes
from fake_streams import EAGER, LATE, Order

from headrace_engines.errors import DeviceError, EngineSpoilt, InputError
from headrace_engines.runtime.cuda import faults, shared_memory
from headrace_engines.runtime.cuda.context import Gpu
from headrace_engines.runtime.cuda.shared_memory import OpenedMemory, SharedMemory
from headrace_engines.runtime.cuda.twins import Twins


@contextlib.contextmanager
def shared(
    size_bytes: int, order: Order = LATE
) -> Iterator[tuple[FakeDriver, SharedMemory, OpenedMemory, Bytes]]:
    """Open another process's memory, and give the GPU up at the end, where nothing may be left."""
    with FakeDriver(order) as driver, present(driver):
        handle, theirs = driver.share(size_bytes)
        theirs[:] = np.arange(size_bytes) % 251
        memory = SharedMemory()
        opened = memory.open(0, handle, size_bytes)
        yield driver, memory, opened, theirs
        opened.close()
        memory.close()


@pytest.mark.parametrize("order", [LATE, EAGER, 3])
def test_parts_are_read_and_written(order: Order) -> None:
    with shared(1000, order) as (_, _, opened, theirs):
        assert opened.read(10, 5) == theirs[10:15].tobytes()
        opened.write(20, np.full(7, 9, np.uint8))
        assert theirs[19:28].tolist() == [19, *[9] * 7, 27]
        assert opened.read(0, 1000) == theirs.tobytes()


def test_what_is_larger_than_the_pinned_piece_goes_through_it_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_memory, "_PIECE_BYTES", 64)
    with shared(1000) as (driver, _, opened, theirs):
        assert opened.read(3, 500) == theirs[3:503].tobytes()
        opened.write(100, np.arange(130, dtype=np.uint8))
        assert theirs[100:230].tolist() == list(range(130))
        assert driver.calls["allocate_pinned"] == 1


def test_memory_is_opened_again_in_a_fresh_context() -> None:
    with shared(100) as (driver, memory, opened, theirs):
        before = opened.address()
        assert opened.read(0, 4) == theirs[:4].tobytes()
        memory._bridges[0].gpu.renew(1)
        assert driver.calls["open_shared"] == 1
        assert opened.read(0, 4) == theirs[:4].tobytes()
        assert driver.calls["open_shared"] == 2
        assert opened.address() != before


def test_a_reset_right_before_a_copy_moves_where_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of the context before would be other memory's."""
    copying = shared_memory._Bridge._copying

    def late(bridge: shared_memory._Bridge) -> Any:
        bridge.gpu.renew(bridge.gpu.generation)
        return copying(bridge)

    with shared(100) as (_, _, opened, theirs):
        monkeypatch.setattr(shared_memory._Bridge, "_copying", late)
        assert opened.read(3, 4) == theirs[3:7].tobytes()
        opened.write(50, np.full(5, 9, np.uint8))
        assert theirs[49:56].tolist() == [49, *[9] * 5, 55]


def test_one_caller_waits_for_a_reset_and_the_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    renew, met = Gpu.renew, []

    def slow(gpu: Gpu, generation: int) -> int:
        with pytest.raises(EngineSpoilt):
            beside.submit(opened.read, 0, 4).result(timeout=60)
        met.append(generation)
        return renew(gpu, generation)

    with ThreadPoolExecutor(1) as beside, shared(100) as (driver, _, opened, theirs):
        monkeypatch.setattr(Gpu, "renew", slow)
        driver.fail("copy_out", "CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(EngineSpoilt):
            opened.read(0, 4)
        assert met == [1]
        assert opened.read(0, 4) == theirs[:4].tobytes()


def test_memory_whose_owner_has_gone_is_told_after_a_reset() -> None:
    with shared(100) as (driver, memory, opened, _):
        memory._bridges[0].gpu.renew(1)
        driver._exported.clear()
        with pytest.raises(InputError, match="cannot be opened: open_shared: CUDA_ERROR_INVALID_VALUE"):
            opened.address()


def test_a_spoilt_context_fails_one_copy_and_not_the_next() -> None:
    with shared(100) as (driver, _, opened, theirs):
        assert opened.read(0, 4) == theirs[:4].tobytes()
        driver.fail("copy_out", "CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(EngineSpoilt):
            opened.read(0, 4)
        assert opened.read(0, 4) == theirs[:4].tobytes()


def test_a_handle_that_cuda_takes_for_an_error_of_the_context_spoils_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So are handles from a container with processes of its own answered."""

    def refuse(handle: bytes) -> tuple[int, int]:
        raise faults.error("cuIpcOpenMemHandle", "CUDA_ERROR_INVALID_CONTEXT")

    with shared(100) as (driver, memory, opened, theirs):
        with monkeypatch.context() as patched:
            patched.setattr(driver, "open_shared", refuse)
            with pytest.raises(InputError, match=r"cannot be opened: .*INVALID_CONTEXT"):
                memory.open(0, bytes(64), 8)
        assert opened.read(0, 4) == theirs[:4].tobytes()
        assert memory._bridges[0].gpu.generation == 1


def test_a_lost_gpu_is_told() -> None:
    with FakeDriver() as driver, present(driver):
        handle, _ = driver.share(8)
        memory = SharedMemory()
        opened = memory.open(0, handle, 8)
        driver.lose()
        with pytest.raises(DeviceError):
            opened.read(0, 8)
        with contextlib.suppress(DeviceError):
            opened.close()
        memory.close()


@pytest.mark.parametrize(
    ("index", "handle", "size_bytes", "text"),
    [
        (0, None, 101, "101 bytes were asked for; the memory has 100"),
        (0, bytes(64), 8, "handle cannot be opened: .*INVALID_VALUE"),
        (1, None, 8, "there is no GPU 1; this machine has GPU 0"),
        (-1, None, 8, "there is no GPU -1; this machine has GPU 0"),
    ],
)
def test_what_cannot_be_opened_is_told_and_leaves_nothing_open(
    index: int, handle: bytes | None, size_bytes: int, text: str
) -> None:
    with FakeDriver() as driver, present(driver):
        given, _ = driver.share(100)
        memory = SharedMemory()
        with pytest.raises(InputError, match=text):
            memory.open(index, handle or given, size_bytes)
        memory.close()


def test_a_gpu_that_cannot_be_used_is_offered_to_nobody() -> None:
    with FakeDriver() as driver, present(driver):
        driver.fail("retain", "CUDA_ERROR_NOT_SUPPORTED", times=2)
        handle, _ = driver.share(8)
        told = r"GPU 0 \(Fake GPU\) cannot be used: .*NOT_SUPPORTED"
        assert re.fullmatch(told, shared_memory.why_none())
        memory = SharedMemory()
        with pytest.raises(InputError, match=told):
            memory.open(0, handle, 8)
        assert shared_memory.why_none() == ""
        memory.open(0, handle, 8).close()
        memory.close()
    with present():
        assert shared_memory.why_none() == "CUDA shows none"


def test_two_openings_of_one_memory_are_given_up_one_by_one() -> None:
    with FakeDriver() as driver, present(driver):
        handle, theirs = driver.share(8)
        theirs[:] = 5
        memory = SharedMemory()
        one, other = (memory.open(0, handle, 8) for _ in range(2))
        one.close()
        assert other.read(0, 8) == theirs.tobytes()
        other.close()
        memory.close()


def test_what_stands_on_the_gpu_as_well_is_copied_from_there() -> None:
    with shared(100) as (driver, memory, opened, theirs):
        gpu = memory._bridges[0].gpu
        with gpu.use(1):
            address, host = gpu.memory.allocate(64), gpu.memory.allocate_pinned(64)
            host[:] = 7
            stream, done = driver.stream(), driver.event()
            driver.copy_in(address, host, stream)
            driver.record(done, stream)
            driver.synchronize(done)
            gpu.twins.add(host, 1, address)
        opened.write(10, host[8:24])
        assert theirs[9:27].tolist() == [9, *[7] * 16, 26]
        assert driver.calls["copy_within"] == 1
        gpu.twins.remove(host)
        opened.write(30, host[:4])
        assert driver.calls["copy_within"] == 1
        with gpu.use(1):
            driver.destroy_event(done)
            driver.destroy_stream(stream)
            gpu.memory.free(address)
            gpu.memory.free_pinned(host)


def test_a_twin_is_one_of_its_own_context_and_of_all_bytes() -> None:
    twins, host = Twins(), np.zeros(64, np.uint8)
    twins.add(host, 1, 0x1000)
    assert twins.find(host[8:24], 1) == 0x1008
    assert twins.find(host[8:24].copy(), 1) is None
    assert twins.find(host[8:24], 2) is None, "that context has ended, and its memory with it"
    other = np.zeros(8, np.uint8)
    twins.add(other, 2, 0x2000)
    assert twins.find(host, 1) is None
    assert twins.find(other, 2) == 0x2000
    twins.remove(other)
    assert twins.find(other, 2) is None
