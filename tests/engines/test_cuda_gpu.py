"""A GPU that engines share: its generations, its faults and its memory, on a driver that is a fake."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from fake_cuda import FakeDriver, fake_gpu, present

from headrace_engines.errors import (
    DeviceError,
    EngineError,
    EngineSpoilt,
    ExecutionError,
    MemoryExhausted,
)
from headrace_engines.runtime.cuda import context, gpu, proof
from headrace_engines.runtime.cuda.driver import CudaError, Fault, GpuFacts
from headrace_engines.runtime.cuda.gpu import Gpu
from headrace_engines.runtime.cuda.pools import Pools

NAMES = {
    Fault.CALL: "CUDA_ERROR_INVALID_VALUE",
    Fault.MEMORY: "CUDA_ERROR_OUT_OF_MEMORY",
    Fault.CONTEXT: "CUDA_ERROR_ILLEGAL_ADDRESS",
    Fault.DEVICE: "CUDA_ERROR_ECC_UNCORRECTABLE",
}


def spoil(made: Gpu, driver: FakeDriver) -> None:
    driver.fail("stream", NAMES[Fault.CONTEXT])
    with pytest.raises(EngineSpoilt), made.use(made.generation) as inside:
        inside.stream()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.CALL, ExecutionError),
        (Fault.MEMORY, MemoryExhausted),
        (Fault.CONTEXT, EngineSpoilt),
        (Fault.DEVICE, DeviceError),
    ],
)
def test_an_error_of_the_driver_becomes_what_it_is_to_an_engine(
    fault: Fault, error: type[EngineError]
) -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        driver.fail("stream", NAMES[fault])
        with pytest.raises(error, match=NAMES[fault]) as caught, made.use(1) as inside:
            inside.stream()
        assert type(caught.value) is error
        made.close()


def test_an_error_that_is_not_the_drivers_passes_through() -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        with pytest.raises(KeyError), made.use(1):
            raise KeyError
        with made.use(1) as inside:
            assert inside.free_bytes() == driver.facts.total_bytes
        made.close()


def test_a_spoilt_context_is_refused_until_it_is_renewed() -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        with made.use(1):
            made.memory.allocate(100)
            made.memory.allocate_pinned(100)
        spoil(made, driver)
        with pytest.raises(EngineSpoilt) as caught, made.use(1):
            pass
        assert not caught.value.was_executed
        assert made.renew(1) == 2
        with pytest.raises(EngineSpoilt, match="ended"), made.use(1):
            pass
        with made.use(2) as inside:
            assert inside.free_bytes() == driver.facts.total_bytes
        assert made.renew(1) == 2  # the next engine finds it done
        assert driver.calls["reset"] == 1
        made.close()


def test_what_was_inside_may_have_been_the_cause() -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        driver.fail("push", NAMES[Fault.CONTEXT])
        with pytest.raises(EngineSpoilt) as outside, made.use(1):
            pass
        assert not outside.value.was_executed
        made.renew(1)
        driver.fail("event", NAMES[Fault.CONTEXT])
        with pytest.raises(EngineSpoilt) as within, made.use(2) as inside:
            inside.event()
        assert within.value.was_executed
        made.close()


@pytest.mark.parametrize("fault", [Fault.CALL, Fault.CONTEXT])
def test_a_context_that_cannot_be_put_away_hides_no_other_error(fault: Fault) -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        driver.fail("free_bytes", NAMES[Fault.CALL], times=int(fault is Fault.CALL))
        driver.fail("pop", NAMES[Fault.CONTEXT])
        with pytest.raises(EngineError, match=NAMES[fault]), made.use(1) as inside:
            inside.free_bytes()
        driver.pop()
        driver.reset()
        made.close()


def test_a_reset_waits_for_the_threads_that_are_inside() -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        inside, leave = threading.Event(), threading.Event()

        def stay() -> None:
            with made.use(1):
                inside.set()
                leave.wait()

        threads = [threading.Thread(target=stay)]
        threads[0].start()
        inside.wait()
        spoil(made, driver)
        generations: list[int] = []
        threads += [threading.Thread(target=lambda: generations.append(made.renew(1))) for _ in range(3)]
        for thread in threads[1:]:
            thread.start()
        assert driver.calls["reset"] == 0
        leave.set()
        for thread in threads:
            thread.join()
        assert generations == [2, 2, 2]
        assert driver.calls["reset"] == 1
        made.close()


def test_a_reset_waits_longer_for_a_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_PATIENCE_SECONDS", 0.0)
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        inside, leave = threading.Event(), threading.Event()
        refused: list[bool] = []

        def compile_on_the_host() -> None:
            with made.load(1):
                inside.set()
                leave.wait()
            try:
                with made.load(1):
                    pass
            except EngineSpoilt as error:
                refused.append(error.was_executed)

        class Waited(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "is being loaded" in record.getMessage():
                    leave.set()

        waited = Waited()
        monkeypatch.setattr(context.logger, "handlers", [waited])
        loading = threading.Thread(target=compile_on_the_host)
        loading.start()
        inside.wait()
        spoil(made, driver)
        assert made.renew(1) == 2
        loading.join()
        assert refused == [False]
        with made.load(2) as loaded:
            assert loaded.free_bytes() == driver.facts.total_bytes
        made.close()


def test_a_load_that_does_not_come_back_loses_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_LOADING_PATIENCE_SECONDS", 0.01)
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        with made.load(1), pytest.raises(DeviceError, match="a step of a load has not returned"):
            made.renew(1)
        made.close()


def test_a_thread_that_does_not_come_back_loses_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_PATIENCE_SECONDS", 0.01)
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        with made.use(1):
            with pytest.raises(DeviceError, match="has not returned"):
                made.renew(1)
            with pytest.raises(DeviceError), made.use(1):
                pass
        made.close()


def fails_to_reset(driver: FakeDriver) -> None:
    driver.fail("reset", "CUDA_ERROR_UNKNOWN")


def fails_to_allocate(driver: FakeDriver) -> None:
    driver.fail("allocate", "CUDA_ERROR_UNKNOWN")


def does_not_answer(driver: FakeDriver) -> None:
    driver.fail("copy_out", NAMES[Fault.DEVICE])


def is_gone(driver: FakeDriver) -> None:
    driver.lose()


@pytest.mark.parametrize("trouble", [fails_to_reset, fails_to_allocate, does_not_answer, is_gone])
def test_a_gpu_that_does_not_work_after_a_reset_is_lost(trouble: Any) -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        spoil(made, driver)
        trouble(driver)
        for _ in range(2):
            with pytest.raises(DeviceError, match=r"GPU 0 .Fake GPU. is lost"):
                made.renew(1)
        with pytest.raises(DeviceError), made.use(1):
            pass
        assert made.lost
        assert made.generation == 1
        made.close()


def test_a_gpu_that_gives_back_other_bytes_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        monkeypatch.setattr(driver, "copy_within", lambda *_: None)
        with pytest.raises(DeviceError, match="what came back"):
            made.renew(1)
        made.close()


def test_a_gpu_that_is_declared_lost_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        inside = threading.Event()
        errors: list[Exception] = []

        def wait() -> None:
            try:
                with made.use(1) as own:
                    stream, event = own.stream(), own.event()
                    driver.hold()
                    driver.enqueue(stream.handle, [], [], lambda reads, writes: None)
                    own.record(event, stream)
                    inside.set()
                    own.synchronize(event)
            except DeviceError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        inside.wait()
        made.declare_lost("nothing has come of a batch for 60 s")
        made.declare_lost("another reason")
        with pytest.raises(DeviceError, match="for 60 s"), made.use(1):
            pass
        with pytest.raises(DeviceError, match="for 60 s"):
            made.renew(1)
        made.close()
        driver.lose()
        thread.join()
        assert "for 60 s" in str(errors[0])


def test_the_proof_gives_up_on_a_gpu_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_PATIENCE_SECONDS", 0.0)
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        monkeypatch.setattr(driver, "is_done", lambda event: False)
        with pytest.raises(DeviceError, match="no answer"):
            made.renew(1)
        made.close()


def test_memory_is_counted_and_refused_with_the_numbers() -> None:
    with FakeDriver(total_bytes=4096) as driver:
        pools = Pools(1000, {0: 2000})
        made = fake_gpu(driver, pools)
        with made.use(1):
            address, pinned = made.memory.allocate(1500), made.memory.allocate_pinned(900)
            with pytest.raises(
                MemoryExhausted,
                match=r"501 bytes .* GPU 0 .* 1500 are in use, and --cuda-memory-pool-byte-size allows 2000",
            ):
                made.memory.allocate(501)
            with pytest.raises(
                MemoryExhausted,
                match=r"101 .* 900 are in use, and --pinned-memory-pool-byte-size allows 1000",
            ):
                made.memory.allocate_pinned(101)
            made.memory.free(address)
            made.memory.free_pinned(pinned)
            assert pools.is_unused
        made.close()


def test_what_the_gpu_has_not_is_told_with_what_is_free() -> None:
    with FakeDriver(total_bytes=4096) as driver:
        pools = Pools()
        made = fake_gpu(driver, pools)
        with made.use(1):
            address = made.memory.allocate(4000)
            with pytest.raises(
                MemoryExhausted, match=r"96 of 4096 are free, 4000 are in use .* sets no bound"
            ):
                made.memory.allocate(100)
            assert pools.device_bytes(0) == 4000
            driver.fail("allocate_pinned", NAMES[Fault.MEMORY])
            with pytest.raises(MemoryExhausted, match="no more can be pinned: 0 are in use"):
                made.memory.allocate_pinned(10)
            assert pools.pinned_bytes() == 0
            made.memory.free(address)
        made.close()


def test_a_failure_to_allocate_counts_nothing() -> None:
    with FakeDriver() as driver:
        pools = Pools()
        made = fake_gpu(driver, pools)
        for call, allocate in (
            ("allocate", made.memory.allocate),
            ("allocate_pinned", made.memory.allocate_pinned),
        ):
            driver.fail(call, NAMES[Fault.CALL])
            with pytest.raises(ExecutionError), made.use(1):
                allocate(10)
        assert pools.is_unused
        made.close()


def test_what_went_with_its_context_is_not_in_use() -> None:
    with FakeDriver() as driver:
        pools = Pools(1000, {0: 1000})
        made = fake_gpu(driver, pools)
        with made.use(1):
            made.memory.allocate(1000)
            made.memory.allocate_pinned(1000)
        spoil(made, driver)
        made.renew(1)
        assert pools.is_unused
        made.close()


def test_a_gpu_is_opened_once_and_closed_with_the_last() -> None:
    with FakeDriver() as first, FakeDriver(index=1) as second, present(first, second):
        assert [facts.index for facts in gpu.available()] == [0, 1]
        one, other = gpu.open_gpu(0), gpu.open_gpu(1)
        assert gpu.open_gpu(0) is one
        assert one is not other
        assert one.share()
        one.close()
        one.close()
        assert first.calls["release"] == 0
        one.close()
        assert first.calls["release"] == 1
        assert not one.share()
        again = gpu.open_gpu(0)
        assert again is not one
        again.close()
        other.close()


def test_a_gpu_that_takes_its_time_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeDriver() as slow, FakeDriver(index=1) as quick, present(slow, quick):
        begun, go_on = threading.Event(), threading.Event()
        retain = slow.retain

        def retain_slowly() -> None:
            begun.set()
            assert go_on.wait(60)
            retain()

        monkeypatch.setattr(slow, "retain", retain_slowly)
        opened: list[Gpu] = []
        threads = [threading.Thread(target=lambda: opened.append(gpu.open_gpu(0))) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert begun.wait(60)
        gpu.open_gpu(1).close()
        go_on.set()
        for thread in threads:
            thread.join()
        assert opened[0] is opened[1]
        assert slow.calls["retain"] == 1
        for one in opened:
            one.close()


def test_a_lost_gpu_is_lost_to_those_who_open_it_later() -> None:
    with FakeDriver() as driver, present(driver):
        gpu.open_gpu(0).declare_lost("it is gone")
        with pytest.raises(DeviceError, match="it is gone"), gpu.open_gpu(0).use(1):
            pass


def test_a_gpu_that_is_not_there_is_named_with_those_that_are() -> None:
    with FakeDriver(index=2) as driver, present(driver):
        with pytest.raises(DeviceError, match="no GPU 0; this machine has GPU 2"):
            gpu.open_gpu(0)
        driver.fail("retain", "CUDA_ERROR_DEVICE_UNAVAILABLE")
        with pytest.raises(DeviceError, match=r"GPU 2 .Fake GPU. cannot be used: .*UNAVAILABLE"):
            gpu.open_gpu(2)
    with present(), pytest.raises(DeviceError, match="no GPU here: CUDA shows none"):
        gpu.open_gpu(0)


def test_a_driver_that_lacks_a_function_makes_its_gpus_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> None:
        raise RuntimeError("function cuDevicePrimaryCtxRetain is not found")

    with FakeDriver() as driver, present(driver):
        monkeypatch.setattr(driver, "retain", lacking)
        with pytest.raises(DeviceError, match=r"GPU 0 .Fake GPU. cannot be used: .*Retain is not found"):
            gpu.open_gpu(0)


def test_a_gpu_is_told_of_once_however_often_it_is_opened(caplog: pytest.LogCaptureFixture) -> None:
    with FakeDriver() as driver, present(driver), caplog.at_level(logging.INFO):
        for _ in range(3):
            gpu.open_gpu(0).close()
    assert caplog.text.count("GPU 0 is used") == 1


class Asked:
    """A way to the driver that answers with GPUs, or with an error."""

    def __init__(self, answer: tuple[GpuFacts, ...] | Exception) -> None:
        self.answer = answer

    def gpus(self) -> tuple[GpuFacts, ...]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def driver(self, facts: GpuFacts) -> FakeDriver:
        return FakeDriver(index=facts.index)


NOT_INSTALLED = Asked(ModuleNotFoundError("No module named 'pycuda'"))
BROKEN = Asked(ImportError("libcuda.so.1: cannot open shared object file"))
NO_DRIVER = Asked(CudaError("cuInit", "no driver", Fault.CALL))
LACKING = Asked(RuntimeError("function cuDeviceGet is not found"))
NONE_SHOWN = Asked(())
ONE = Asked((FakeDriver().facts,))


@pytest.mark.parametrize(
    ("libraries", "indices", "why"),
    [
        ((ONE, BROKEN), [0], ""),
        ((NOT_INSTALLED, ONE), [0], ""),
        ((BROKEN, ONE), [0], ""),
        (
            (NOT_INSTALLED, NOT_INSTALLED),
            [],
            "cuda-bindings is not installed: in a clone, pip install '.[tensorrt]', '.[rtx]' or '.[cuda]'",
        ),
        (
            (NOT_INSTALLED, LACKING),
            [],
            "the driver does not fit cuda-bindings: function cuDeviceGet is not found",
        ),
        ((NOT_INSTALLED, NO_DRIVER), [], "cuInit: no driver"),
        ((BROKEN, NO_DRIVER), [], "libcuda.so.1: cannot open shared object file; cuInit: no driver"),
        ((NONE_SHOWN, NONE_SHOWN), [], "CUDA shows none"),
    ],
)
def test_the_first_library_that_shows_gpus_is_the_way_to_them(
    monkeypatch: pytest.MonkeyPatch, libraries: tuple[Asked, ...], indices: list[int], why: str
) -> None:
    monkeypatch.setattr(gpu, "_LIBRARIES", libraries)
    monkeypatch.setattr(gpu, "_found", gpu._found.__wrapped__)
    assert [facts.index for facts in gpu.available()] == indices
    assert gpu.why_none() == why


def test_a_batch_costs_a_push_and_a_pop() -> None:
    with FakeDriver() as driver:
        made = fake_gpu(driver)
        driver.calls.clear()
        with made.use(1):
            pass
        assert driver.calls == {"push": 1, "pop": 1}
        made.close()
