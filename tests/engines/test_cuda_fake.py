"""What the fake driver takes for a mistake: a real GPU would answer with wrong numbers, a crash or a leak."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cuda_setup import SIZE, Setup, in_another_thread
from fake_cuda import FakeDriver, Misuse
from fake_memory import Bytes

from headrace_engines.runtime.cuda.driver import CudaError


def freed_memory(s: Setup) -> None:
    s.driver.free(s.device[0])
    s.driver.zero(s.device[0], SIZE, s.streams[0])


def foreign_memory(s: Setup) -> None:
    s.driver.zero(1234, SIZE, s.streams[0])


def beyond_the_allocation(s: Setup) -> None:
    s.driver.copy_within(s.device[0] + 1, s.device[1], SIZE, s.streams[0])


def host_memory_that_is_not_pinned(s: Setup) -> None:
    s.driver.copy_in(s.device[0], np.zeros(SIZE, np.uint8), s.streams[0])


def host_memory_that_was_freed(s: Setup) -> None:
    s.driver.free_pinned(s.pinned[0])
    s.driver.copy_out(s.pinned[0], s.device[0], s.streams[0])


def host_memory_that_is_not_contiguous(s: Setup) -> None:
    s.driver.copy_in(s.device[0], s.pinned[0][::2], s.streams[0])


def host_memory_of_another_type(s: Setup) -> None:
    s.driver.copy_in(s.device[0], s.pinned[0].view(np.float32), s.streams[0])  # type: ignore[arg-type]


def reading_what_another_stream_writes(s: Setup) -> None:
    s.driver.copy_in(s.device[0], s.pinned[0], s.streams[0])
    s.kernel(1, s.device[0], s.device[1])


def writing_what_another_stream_reads(s: Setup) -> None:
    s.kernel(1, s.device[0], s.device[1])
    s.driver.copy_in(s.device[0], s.pinned[0], s.streams[0])


def waiting_for_an_event_before_it_is_recorded(s: Setup) -> None:
    s.driver.wait_event(s.streams[1], s.events[0])
    s.driver.copy_in(s.device[0], s.pinned[0], s.streams[0])
    s.driver.record(s.events[0], s.streams[0])
    s.kernel(1, s.device[0], s.device[1])


def recording_an_event_before_the_work(s: Setup) -> None:
    s.driver.record(s.events[0], s.streams[0])
    s.driver.copy_in(s.device[0], s.pinned[0], s.streams[0])
    s.driver.wait_event(s.streams[1], s.events[0])
    s.kernel(1, s.device[0], s.device[1])


def the_host_reads_too_early(s: Setup) -> None:
    s.driver.copy_out(s.pinned[0], s.device[0], s.streams[0])
    s.driver.inspect(s.pinned[0][4:8])


def the_host_writes_too_early(s: Setup) -> None:
    s.driver.copy_in(s.device[0], s.pinned[0], s.streams[0])
    s.driver.inspect(s.pinned[0], writing=True)


def the_host_writes_to_what_is_still_read(s: Setup) -> None:
    s.driver.copy_in(s.device[0], s.pinned[0], s.streams[0])
    s.pinned[0][3] += 1
    s.driver.record(s.events[0], s.streams[0])
    s.driver.synchronize(s.events[0])
    s.driver.check()


def the_host_reads_freed_memory(s: Setup) -> None:
    s.driver.free_pinned(s.pinned[0])
    s.driver.inspect(s.pinned[0])


def freeing_pinned_memory_in_use(s: Setup) -> None:
    s.driver.copy_out(s.pinned[0], s.device[0], s.streams[0])
    s.driver.free_pinned(s.pinned[0])


def freeing_twice(s: Setup) -> None:
    s.driver.free(s.device[0])
    s.driver.free(s.device[0])


def freeing_pinned_memory_twice(s: Setup) -> None:
    s.driver.free_pinned(s.pinned[0])
    s.driver.free_pinned(s.pinned[0])


def freeing_a_part(s: Setup) -> None:
    s.driver.free(s.device[0] + 8)


def freeing_memory_of_another_kind(s: Setup) -> None:
    s.driver.free(s.pinned[0].ctypes.data)


def no_context(s: Setup) -> None:
    s.driver.pop()
    s.driver.allocate(SIZE)


def another_threads_context(s: Setup) -> None:
    in_another_thread(lambda: s.driver.record(s.events[0], s.streams[0]))


def popping_twice(s: Setup) -> None:
    s.driver.pop()
    s.driver.pop()


def another_drivers_stream(s: Setup) -> None:
    other = Setup(FakeDriver())
    s.driver.zero(s.device[0], SIZE, other.streams[0])


def a_destroyed_stream(s: Setup) -> None:
    s.driver.destroy_stream(s.streams[0])
    s.driver.record(s.events[0], s.streams[0])


def a_destroyed_event(s: Setup) -> None:
    s.driver.destroy_event(s.events[0])
    s.driver.wait_event(s.streams[0], s.events[0])


def a_destroyed_graph(s: Setup) -> None:
    s.driver.begin_capture(s.streams[0])
    graph = s.driver.end_capture(s.streams[0])
    s.driver.destroy_graph(graph)
    s.driver.launch(graph, s.streams[0])


def a_graph_over_freed_memory(s: Setup) -> None:
    s.driver.begin_capture(s.streams[0])
    s.driver.zero(s.device[0], SIZE, s.streams[0])
    graph = s.driver.end_capture(s.streams[0])
    s.driver.free(s.device[0])
    s.driver.launch(graph, s.streams[0])


def a_stream_of_an_ended_context(s: Setup) -> None:
    s.driver.pop()
    s.driver.reset()
    s.driver.push()
    s.driver.record(s.events[0], s.streams[0])


def memory_of_an_ended_context(s: Setup) -> None:
    s.driver.pop()
    s.driver.reset()
    s.driver.push()
    s.driver.free(s.device[0])


def resetting_while_a_thread_is_inside(s: Setup) -> None:
    s.driver.reset()


def the_default_stream(s: Setup) -> None:
    s.driver.enqueue(0, [], [], lambda reads, writes: None)


def an_unknown_stream(s: Setup) -> None:
    s.driver.enqueue(17, [], [], lambda reads, writes: None)


def a_kernel_out_of_bounds(s: Setup) -> None:
    s.driver.enqueue(s.streams[0].handle, [(s.device[0], SIZE + 1)], [], lambda reads, writes: None)


def broken(reads: list[Bytes], writes: list[Bytes]) -> None:
    raise RuntimeError


def a_kernel_that_fails(s: Setup) -> None:
    s.driver.enqueue(s.streams[0].handle, [], [(s.device[0], 4)], broken)
    s.driver.record(s.events[0], s.streams[0])
    with pytest.raises(CudaError, match="LAUNCH_FAILED"):
        s.driver.synchronize(s.events[0])
    s.driver.check()


def synchronising_while_capturing(s: Setup) -> None:
    s.driver.begin_capture(s.streams[0])
    s.driver.synchronize(s.events[0])


def allocating_while_capturing(s: Setup) -> None:
    s.driver.begin_capture(s.streams[0])
    s.driver.allocate(SIZE)


def another_stream_while_capturing(s: Setup) -> None:
    s.driver.begin_capture(s.streams[0])
    s.driver.zero(s.device[0], SIZE, s.streams[1])


def an_event_while_capturing(s: Setup) -> None:
    s.driver.begin_capture(s.streams[0])
    s.driver.record(s.events[0], s.streams[0])


def waiting_while_capturing(s: Setup) -> None:
    s.driver.begin_capture(s.streams[0])
    s.driver.wait_event(s.streams[0], s.events[0])


def capturing_twice(s: Setup) -> None:
    s.driver.begin_capture(s.streams[0])
    s.driver.begin_capture(s.streams[1])


def ending_a_capture_that_was_not_begun(s: Setup) -> None:
    s.driver.end_capture(s.streams[0])


def the_time_of_what_is_not_over(s: Setup) -> None:
    s.driver.record(s.events[0], s.streams[0])
    s.driver.record(s.events[1], s.streams[0])
    s.driver.milliseconds(s.events[0], s.events[1])


def the_time_of_what_was_not_recorded(s: Setup) -> None:
    s.driver.milliseconds(s.events[0], s.events[1])


def leaking(s: Setup) -> None:
    s.driver.pop()
    s.driver.release()


def giving_up_while_inside(s: Setup) -> None:
    s.driver.release()


def closing_shared_memory_twice(s: Setup) -> None:
    handle, _ = s.driver.share(SIZE)
    address, _ = s.driver.open_shared(handle)
    s.driver.close_shared(address)
    s.driver.close_shared(address)


def using_closed_shared_memory(s: Setup) -> None:
    handle, _ = s.driver.share(SIZE)
    address, _ = s.driver.open_shared(handle)
    s.driver.close_shared(address)
    s.driver.zero(address, SIZE, s.streams[0])


MISUSES: tuple[tuple[Callable[[Setup], None], str], ...] = (
    (freed_memory, "were freed"),
    (foreign_memory, "in no allocation"),
    (beyond_the_allocation, "beyond"),
    (host_memory_that_is_not_pinned, "not pinned"),
    (host_memory_that_was_freed, "were freed"),
    (host_memory_that_is_not_contiguous, "not contiguous"),
    (host_memory_of_another_type, "float32"),
    (reading_what_another_stream_writes, "in no order"),
    (writing_what_another_stream_reads, "in no order"),
    (waiting_for_an_event_before_it_is_recorded, "in no order"),
    (recording_an_event_before_the_work, "in no order"),
    (the_host_reads_too_early, "the host reads"),
    (the_host_writes_too_early, "the host writes"),
    (the_host_writes_to_what_is_still_read, "the host has written"),
    (the_host_reads_freed_memory, "freed"),
    (freeing_pinned_memory_in_use, "nobody has waited"),
    (freeing_twice, "twice"),
    (freeing_pinned_memory_twice, "twice"),
    (freeing_a_part, "no device memory"),
    (freeing_memory_of_another_kind, "no device memory"),
    (no_context, "not pushed"),
    (another_threads_context, "not pushed"),
    (popping_twice, "has not pushed"),
    (another_drivers_stream, "another driver"),
    (a_destroyed_stream, "after its end"),
    (a_destroyed_event, "after its end"),
    (a_destroyed_graph, "after its end"),
    (a_graph_over_freed_memory, "freed"),
    (a_stream_of_an_ended_context, "after its end"),
    (memory_of_an_ended_context, "no device memory"),
    (resetting_while_a_thread_is_inside, "pushed"),
    (the_default_stream, "default stream"),
    (an_unknown_stream, "no stream"),
    (a_kernel_out_of_bounds, "beyond"),
    (a_kernel_that_fails, "kernel failed"),
    (synchronising_while_capturing, "while the thread captures"),
    (allocating_while_capturing, "while the thread captures"),
    (another_stream_while_capturing, "not captured"),
    (an_event_while_capturing, "while capturing"),
    (waiting_while_capturing, "captured waits"),
    (capturing_twice, "inside another"),
    (ending_a_capture_that_was_not_begun, "not begun"),
    (the_time_of_what_is_not_over, "nobody has waited"),
    (the_time_of_what_was_not_recorded, "nobody has waited"),
    (leaking, "left when"),
    (giving_up_while_inside, "pushed"),
    (closing_shared_memory_twice, "freed twice"),
    (using_closed_shared_memory, "freed"),
)


@pytest.mark.parametrize(("misuse", "text"), MISUSES, ids=lambda value: getattr(value, "__name__", None))
def test_a_mistake_fails_the_test_even_if_it_is_swallowed(misuse: Callable[[Setup], None], text: str) -> None:
    driver = FakeDriver()
    with pytest.raises(Misuse, match=text):
        misuse(Setup(driver))
    with pytest.raises(Misuse, match=text):
        driver.check()


def test_a_context_that_is_not_given_up_fails_the_test() -> None:
    with pytest.raises(Misuse, match="not given up"), FakeDriver() as driver:
        driver.retain()
