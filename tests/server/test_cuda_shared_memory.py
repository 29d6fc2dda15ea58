"""CUDA regions over memory that a test keeps: who holds on to them, and what becomes of requests."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
from fake_device_memory import FakeDeviceMemory
from scripted_engines import ROWS, Answers
from shared_objects import shared_object
from works import work_of

from headrace_engines.device_rows import DeviceRows
from headrace_engines.errors import DeviceError, InputError
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import InputTensor, Request
from headrace_server.errors import InvalidInput, NotSupported, RegionExists, RegionNotFound
from headrace_server.transport.cuda_shared_memory import CudaRegion
from headrace_server.transport.regions import Regions
from headrace_server.transport.rendering import Rendering
from headrace_server.transport.shared_memory import SystemRegion
from headrace_server.transport.shared_region import Slice

HANDLE = b"a".ljust(64, b"\0")
OTHER = b"b".ljust(64, b"\0")
DATA = bytes(range(100))


@pytest.fixture
def memory() -> FakeDeviceMemory:
    return FakeDeviceMemory({HANDLE: DATA, OTHER: DATA})


@pytest.fixture
def regions(memory: FakeDeviceMemory) -> Regions:
    return Regions(allowed=True, device_memory=lambda: memory)


def test_a_region_is_told_of_until_it_is_forgotten(regions: Regions, memory: FakeDeviceMemory) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    regions.register_cuda("s", OTHER, 0, 50)
    assert {name: (one.gpu, one.size_bytes) for name, one in regions.status("", CudaRegion).items()} == {
        "r": (0, 100),
        "s": (0, 50),
    }
    assert regions.status("", SystemRegion) == {}
    regions.unregister("r", CudaRegion)
    assert list(regions.status("", CudaRegion)) == ["s"]
    assert memory.open_now == [OTHER], "closed by the time the call returns"
    regions.unregister("", CudaRegion)
    assert memory.open_now == []
    regions.close()
    assert memory.is_closed


def test_both_kinds_share_one_set_of_names(regions: Regions) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    with shared_object(bytes(8)) as shared, pytest.raises(RegionExists):
        regions.register("r", shared.key, 0, 8)
    with pytest.raises(RegionExists):
        regions.register_cuda("r", OTHER, 0, 100)
    with pytest.raises(RegionNotFound, match="'r' is one of the other kind: CUDA shared memory"):
        regions.status("r", SystemRegion)
    regions.unregister("r", SystemRegion)
    regions.unregister("", SystemRegion)
    assert regions.find("r").size_bytes == 100


def test_what_is_not_added_is_closed_again(regions: Regions, memory: FakeDeviceMemory) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    memory.before_open = lambda: regions.register_cuda("s", HANDLE, 0, 100)
    with pytest.raises(RegionExists):
        regions.register_cuda("s", OTHER, 0, 100)
    gc.collect()  # the error knew the region
    regions.unregister("none", CudaRegion)
    assert memory.open_now == [HANDLE, HANDLE]


@pytest.mark.parametrize(
    ("handle", "gpu", "size_bytes", "text"),
    [
        (b"short", 0, 8, "raw_handle has 5 bytes, a CUDA IPC handle has 64"),
        (bytes(64), 0, 8, "no such handle"),
        (HANDLE, 0, 101, "101 bytes were asked for; the memory has 100"),
        (HANDLE, 3, 8, "there is no GPU 3"),
        (HANDLE, 0, 0, "byte_size is 0"),
    ],
)
def test_what_cannot_be_registered(
    regions: Regions, handle: bytes, gpu: int, size_bytes: int, text: str
) -> None:
    with pytest.raises(InvalidInput, match=f"region 'r': .*{text}"):
        regions.register_cuda("r", handle, gpu, size_bytes)
    assert regions.status("", CudaRegion) == {}


def test_without_a_gpu_or_the_flag() -> None:
    without = Regions(allowed=True, device_memory=lambda: "no driver")
    assert not without.has_gpu
    with pytest.raises(InvalidInput, match="there is no GPU that this server can use: no driver"):
        without.register_cuda("r", HANDLE, 0, 8)
    asked: list[int] = []
    closed = Regions(allowed=False, device_memory=lambda: asked.append(1) or "none")
    with pytest.raises(NotSupported, match="--allow-client-shm"):
        closed.register_cuda("r", HANDLE, 0, 8)
    assert not asked, "no GPU is looked for where nobody may use it"


def test_a_slice_is_read_and_written_where_it_stands(regions: Regions, memory: FakeDeviceMemory) -> None:
    regions.register_cuda("r", HANDLE, 0, 50)
    part = regions.find("r").slice("y", 10, 5)
    assert part.read() == DATA[10:15]
    part.write(memoryview(b"abc"))
    assert memory.bytes_of(HANDLE) == DATA[:10] + b"abc" + DATA[13:]
    with pytest.raises(InvalidInput, match="the answer takes 6 bytes, shared_memory_byte_size is 5"):
        part.write(memoryview(b"abcdef"))
    with pytest.raises(InvalidInput, match="region 'r' has 50"):
        regions.find("r").slice("y", 46, 5)


def test_slices_overlap_in_the_memory_and_not_by_name(regions: Regions) -> None:
    regions.register_cuda("r", HANDLE, 0, 50)
    regions.register_cuda("s", HANDLE, 0, 100)
    regions.register_cuda("t", OTHER, 0, 100)
    one, same, other = (regions.find(name).slice("y", 10, 5) for name in "rst")
    assert one.overlaps(same)
    assert not one.overlaps(other)
    in_order = sorted([one, other, same], key=Slice.place)
    assert abs(in_order.index(one) - in_order.index(same)) == 1


def test_a_region_is_open_as_long_as_a_request_uses_it(regions: Regions, memory: FakeDeviceMemory) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    rows = regions.find("r").slice("x", 0, 8).device_rows
    assert rows is not None
    regions.unregister("r", CudaRegion)
    assert memory.open_now == [HANDLE]
    assert (rows.gpu, len(rows), rows.read()) == (0, 8, DATA[:8])
    del rows
    regions.unregister("", CudaRegion)
    assert memory.open_now == []


def test_memory_that_its_owner_has_taken_back(regions: Regions, memory: FakeDeviceMemory) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    part = regions.find("r").slice("input 'x'", 0, 8)
    rows = part.device_rows
    assert rows is not None
    memory.gone = InputError("it is gone")
    told = "input 'x': CUDA shared memory region 'r': it is gone"
    for use in (part.read, lambda: part.write(memoryview(b"a"))):
        with pytest.raises(InvalidInput, match=told):
            use()
    uses: list[Callable[[], object]] = [rows.read, rows.address]
    for ask in uses:
        with pytest.raises(InputError, match=told):
            ask()


def test_a_region_whose_gpu_fails_at_the_end_is_let_go(
    regions: Regions, memory: FakeDeviceMemory, caplog: pytest.LogCaptureFixture
) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    memory.at_close = DeviceError("GPU 0 is lost")
    regions.unregister("r", CudaRegion)
    assert "could not be closed: GPU 0 is lost" in caplog.text
    regions.register_cuda("r", OTHER, 0, 100)


def fetched(regions: Regions, datatype: str, *, takes_device_rows: bool) -> tuple[bool, object, object]:
    """Return whether fetching waits for the GPU, the data that admission sees, and that the engine gets."""
    model = Model("m", "1", ROWS, "scripted", Limits(), takes_device_rows=takes_device_rows)
    rendering = Rendering({0: regions.find("r").slice("x", 8, 16)}, {})
    request = Request("m", "1", "", [InputTensor("x", datatype, (2, 1), b"")], (), {}, rendering)
    came = rendering.fetch(request).inputs[0].data
    work = work_of(model, Answers(), rows=2)
    work.data = (came,)
    rendering.settle(work)
    return rendering.waits_for_gpu(request, model.facts), came, work.data[0]


def test_rows_stay_on_the_gpu_for_an_engine_there(regions: Regions, memory: FakeDeviceMemory) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    waits, came, given = fetched(regions, "INT64", takes_device_rows=True)
    assert not waits
    assert isinstance(came, DeviceRows)
    assert given is came
    assert came.address() == memory.address_of(HANDLE) + 8


def test_any_other_engine_gets_them_in_the_hosts_memory(regions: Regions) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    waits, _, given = fetched(regions, "INT64", takes_device_rows=False)
    assert waits
    assert given == DATA[8:24]


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_what_is_looked_into_is_read_at_once(regions: Regions, datatype: str) -> None:
    regions.register_cuda("r", HANDLE, 0, 100)
    waits, came, _ = fetched(regions, datatype, takes_device_rows=True)
    assert waits
    assert came == DATA[8:24]
    assert np.frombuffer(DATA[8:24], np.uint8).size == 16
