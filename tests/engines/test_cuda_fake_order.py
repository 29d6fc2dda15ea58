"""The fake driver does what it is told, in any order that streams and events allow."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from cuda_setup import ORDERS, SIZE, Setup
from fake_cuda import EAGER, LATE, FakeDriver, Order
from fake_memory import Bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_engines.runtime.cuda.driver import CudaError, Fault


@pytest.mark.parametrize("order", ORDERS)
def test_work_is_done_in_the_order_of_streams_and_events(order: Order) -> None:
    with FakeDriver(order) as driver:
        setup = Setup(driver)
        (copying, computing), (copied, computed) = setup.streams, setup.events
        source, result = setup.pinned
        source[:] = np.arange(SIZE)
        driver.copy_in(setup.device[0], source, copying)
        driver.record(copied, copying)
        driver.wait_event(computing, copied)
        setup.kernel(1, setup.device[0], setup.device[1])
        driver.zero(setup.device[1], 1, computing)
        driver.copy_out(result, setup.device[1], computing)
        driver.record(computed, computing)
        driver.synchronize(computed)
        driver.inspect(result)
        driver.inspect(source, writing=True)
        assert result.tolist() == [0, *range(2, 2 * SIZE, 2)]
        assert driver.milliseconds(copied, computed) > 0
        setup.close()


def test_what_nobody_waits_for_is_not_done() -> None:
    with FakeDriver(LATE) as driver:
        setup = Setup(driver)
        driver.zero(setup.device[0], SIZE, setup.streams[0])
        driver.copy_out(setup.pinned[0], setup.device[0], setup.streams[0])
        driver.record(setup.events[0], setup.streams[0])
        assert setup.pinned[0].any()
        while not driver.is_done(setup.events[0]):
            pass
        assert not setup.pinned[0].any()
        setup.close()


@pytest.mark.parametrize("order", ORDERS)
def test_a_graph_does_what_was_noted_each_time(order: Order) -> None:
    with FakeDriver(order) as driver:
        setup = Setup(driver)
        stream, (source, result) = setup.streams[0], setup.pinned
        result[:] = 0
        driver.begin_capture(stream)
        assert driver.is_capturing(stream.handle)
        driver.copy_in(setup.device[0], source, stream)
        setup.kernel(0, setup.device[0], setup.device[1])
        driver.copy_out(result, setup.device[1], stream)
        graph = driver.end_capture(stream)
        assert not result.any()
        for value in (1, 2):
            source[:] = value
            driver.launch(graph, stream)
            driver.record(setup.events[0], stream)
            driver.synchronize(setup.events[0])
            assert (result == 2 * value).all()
        driver.destroy_graph(graph)
        setup.close()


def test_an_error_that_spoils_the_context_stays_until_it_is_reset() -> None:
    with FakeDriver() as driver:
        setup = Setup(driver)
        driver.fail("copy_in", "CUDA_ERROR_ILLEGAL_ADDRESS", after=1)
        driver.copy_in(setup.device[0], setup.pinned[0], setup.streams[0])
        for _ in range(2):
            with pytest.raises(CudaError) as caught:
                driver.copy_in(setup.device[0], setup.pinned[0], setup.streams[0])
            assert caught.value.fault is Fault.CONTEXT
        driver.pop()
        driver.reset()
        again = Setup(driver)
        again.close()
        driver.release()


def test_an_error_of_one_call_passes() -> None:
    with FakeDriver(total_bytes=1000) as driver:
        setup = Setup(driver)
        driver.fail("record", "CUDA_ERROR_INVALID_HANDLE")
        with pytest.raises(CudaError) as caught:
            driver.record(setup.events[0], setup.streams[0])
        assert caught.value.fault is Fault.CALL
        with pytest.raises(CudaError) as caught:
            driver.allocate(1000)
        assert caught.value.fault is Fault.MEMORY
        driver.record(setup.events[0], setup.streams[0])
        setup.close()


@pytest.mark.parametrize("order", ORDERS)
def test_a_kernels_error_is_told_by_what_waits_for_it(order: Order) -> None:
    with FakeDriver(order) as driver:
        setup = Setup(driver)
        driver.fail("kernel", "CUDA_ERROR_LAUNCH_FAILED")
        setup.kernel(0, setup.device[0], setup.device[1])
        with pytest.raises(CudaError, match="LAUNCH_FAILED"):
            setup.wait(0)
        driver.pop()
        driver.release()


def test_a_lost_gpu_does_not_come_back() -> None:
    with FakeDriver() as driver:
        driver.retain()
        driver.lose()
        with pytest.raises(CudaError) as caught:
            driver.reset()
        assert caught.value.fault is Fault.DEVICE


@pytest.mark.parametrize("order", ORDERS)
def test_a_kernel_that_is_held_blocks_its_waiter_alone(order: Order) -> None:
    with FakeDriver(order) as driver:
        setup = Setup(driver)
        driver.hold()
        setup.kernel(0, setup.device[0], setup.device[1])
        driver.record(setup.events[0], setup.streams[0])
        assert not driver.is_done(setup.events[0])
        began = threading.Event()

        def wait() -> None:
            driver.push()
            began.set()
            driver.synchronize(setup.events[0])
            driver.pop()

        thread = threading.Thread(target=wait)
        thread.start()
        began.wait()
        driver.record(setup.events[1], setup.streams[1])
        driver.synchronize(setup.events[1])
        assert thread.is_alive()
        driver.let_go()
        thread.join()
        setup.close()


def test_shared_memory_is_anothers() -> None:
    with FakeDriver() as driver:
        setup = Setup(driver)
        handle, theirs = driver.share(SIZE)
        address, size_bytes = driver.open_shared(handle)
        assert driver.open_shared(handle) == (address, size_bytes) == (address, SIZE)
        driver.zero(address, SIZE, setup.streams[0])
        driver.record(setup.events[0], setup.streams[0])
        driver.synchronize(setup.events[0])
        assert not theirs.any()
        driver.close_shared(address)
        driver.close_shared(address)
        with pytest.raises(CudaError) as caught:
            driver.open_shared(b"\0" * 64)
        assert caught.value.fault is Fault.CALL
        setup.close()


BUFFERS = 3
STREAMS = 3
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("in", "out", "add", "host")),
        st.integers(0, STREAMS - 1),
        st.integers(0, BUFFERS - 1),
        st.integers(0, BUFFERS - 1),
    ),
    max_size=20,
)


class Program:
    """Steps over buffers on the GPU and on the host, in order by events where they touch the same buffers."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.streams = [driver.stream() for _ in range(STREAMS)]
        self.device = [driver.allocate(SIZE) for _ in range(BUFFERS)]
        self.host = [driver.allocate_pinned(SIZE) for _ in range(BUFFERS)]
        self.expected = {("device", n): np.zeros(SIZE, np.uint8) for n in range(BUFFERS)}
        self.expected |= {("host", n): np.zeros(SIZE, np.uint8) for n in range(BUFFERS)}
        self.touched: dict[tuple[str, int], Any] = {}
        self.events: list[Any] = []
        for address, memory in zip(self.device, self.host, strict=True):
            driver.zero(address, SIZE, self.streams[0])
            memory[:] = 0
        mark = self.mark(0)
        self.touched = {("device", n): mark for n in range(BUFFERS)}

    def mark(self, stream: int) -> Any:
        event = self.driver.event()
        self.events.append(event)
        self.driver.record(event, self.streams[stream])
        return event

    def step(self, kind: str, stream: int, source: int, target: int) -> None:
        reads, writes = {
            "in": (("host", source), ("device", target)),
            "out": (("device", source), ("host", target)),
            "add": (("device", source), ("device", target)),
            "host": (("host", source), ("host", target)),
        }[kind]
        awaited = [self.touched[buffer] for buffer in (reads, writes) if buffer in self.touched]
        if kind == "host":
            self._on_the_host(awaited, source, target)
            return
        for event in awaited:
            self.driver.wait_event(self.streams[stream], event)
        if kind == "in":
            self.driver.copy_in(self.device[target], self.host[source], self.streams[stream])
            self.expected[writes] = self.expected[reads].copy()
        elif kind == "out":
            self.driver.copy_out(self.host[target], self.device[source], self.streams[stream])
            self.expected[writes] = self.expected[reads].copy()
        else:
            self._add(stream, source, target)
            self.expected[writes] = self.expected[reads] + self.expected[writes]
        self.touched[reads] = self.touched[writes] = self.mark(stream)

    def _on_the_host(self, awaited: list[Any], source: int, target: int) -> None:
        for event in awaited:
            self.driver.synchronize(event)
        self.driver.inspect(self.host[source])
        self.driver.inspect(self.host[target], writing=True)
        self.host[target][:] = self.host[source] + 1
        self.expected["host", target] = self.expected["host", source] + 1

    def _add(self, stream: int, source: int, target: int) -> None:
        def compute(reads: list[Bytes], writes: list[Bytes]) -> None:
            writes[0] += reads[0]

        reads = [(self.device[source], SIZE), (self.device[target], SIZE)]
        self.driver.enqueue(self.streams[stream].handle, reads, [(self.device[target], SIZE)], compute)

    def close(self) -> None:
        for n, event in self.touched.items():
            self.driver.synchronize(event)
            if n[0] == "host":
                assert (self.host[n[1]] == self.expected[n]).all()
        for event in self.events:
            self.driver.destroy_event(event)
        for stream in self.streams:
            self.driver.destroy_stream(stream)
        for address, memory in zip(self.device, self.host, strict=True):
            self.driver.free(address)
            self.driver.free_pinned(memory)


@settings(max_examples=50)
@given(steps=STEPS, order=st.one_of(st.sampled_from((LATE, EAGER)), st.integers(0, 1000)))
def test_a_program_that_is_right_does_the_same_in_every_order(
    steps: list[tuple[str, int, int, int]], order: Order
) -> None:
    with FakeDriver(order) as driver:
        driver.retain()
        driver.push()
        program = Program(driver)
        for step in steps:
            program.step(*step)
        program.close()
        driver.pop()
        driver.release()
