"""What is taken for the loss of a GPU, and what follows for all that runs on it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hosted_server import eventually
from scripted_devices import Hang, ScriptedDevice
from scripted_engines import PATIENCE_SECONDS, Gate, ScriptedEngine, Served, serving

from headrace_engines.errors import DeviceError
from headrace_server.core import gpu_watchdog
from headrace_server.core.gpu_watchdog import GpuWatchdog
from headrace_server.core.model import Limits, Model
from headrace_server.core.trials import trials_on
from headrace_server.errors import DeviceLost
from headrace_server.telemetry.long_executions import LongExecutions

AT_ONCE = 1e-9


class Watched:
    """A watchdog over these, and what it declared."""

    def __init__(self, *served: Served, longest_seconds: float = 0.0) -> None:
        self.declared: list[tuple[int, str]] = []
        self._models: Sequence[Model] = [one.model for one in served]
        self.watchdog = GpuWatchdog(
            lambda: self._models, longest_seconds, lambda *loss: self.declared.append(loss)
        )


def test_an_execution_that_never_ends_loses_all_on_that_gpu_and_nothing_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hang = Hang(13)
    with (
        serving(ScriptedDevice(gpu=1, before=hang), name="stuck") as stuck,
        serving(ScriptedDevice(gpu=1), name="beside") as beside,
        serving(ScriptedDevice(gpu=0), name="other") as other,
    ):
        watched = Watched(stuck, beside, other, longest_seconds=AT_ONCE)
        watched.watchdog.look()
        assert not watched.watchdog.lost
        stuck.infer("a", 13)
        assert hang.began.wait(PATIENCE_SECONDS)
        stuck.infer("b", 1)
        watched.watchdog.look()
        watched.watchdog.look()
        assert all(isinstance(stuck.answers.error_of(key), DeviceLost) for key in ("a", "b"))
        assert list(watched.watchdog.lost) == [1]
        assert "model 'stuck' version 1 has executed on GPU 1 for 0.0 s without an answer" in str(
            beside.model.lost
        )
        assert beside.model.lost_gpu == 1
        assert other.model.lost is None
        assert len(watched.declared) == 1
        hang.released.set()
    assert "GPU 1 is taken for lost: model 'stuck'" in caplog.text


def test_a_device_that_an_engine_found_lost_is_lost_for_all_on_it() -> None:
    with (
        serving(ScriptedDevice(gpu=1), name="met") as met,
        serving(ScriptedDevice(gpu=1), name="beside") as beside,
    ):
        watched = Watched(met, beside)
        met.engine.script["submit"].append(DeviceError("Xid 79"))  # type: ignore[attr-defined]  # it is a device
        met.infer("a", 1)
        assert isinstance(met.answers.error_of("a"), DeviceLost)
        watched.watchdog.look()
        assert watched.declared == [(1, "Xid 79")]
        assert beside.model.lost == "Xid 79"


def test_what_begins_to_serve_on_a_gpu_that_was_lost_is_lost_at_the_next_look() -> None:
    first, second = (Served(ScriptedDevice(), Limits(), name) for name in ("first", "second"))
    watched = Watched(first, second)
    first.model.lose("Xid 79", [], 0)
    watched.watchdog.look()
    assert second.model.lost is None, "it has no engine there yet"
    with serving(ScriptedDevice()) as third:
        watched = Watched(first, third)
        third.infer("a", 1)
        third.answers.wait_for("a")
        watched.watchdog.look()
        assert third.model.lost == "Xid 79"


@pytest.mark.parametrize("longest_seconds", [0.0, 3600.0])
def test_nothing_is_taken_for_lost_before_its_time_or_without_one(longest_seconds: float) -> None:
    gate = Gate()
    with serving(ScriptedDevice(before=gate)) as served:
        served.infer("a", 1)
        gate.arrival()
        watched = Watched(served, longest_seconds=longest_seconds)
        watched.watchdog.look()
        assert not watched.watchdog.lost
        assert served.model.lost is None


def test_an_execution_on_the_cpu_may_take_as_long_as_it_likes() -> None:
    gate = Gate()
    with serving(ScriptedEngine(before=gate)) as served:
        served.infer("a", 1)
        gate.arrival()
        watched = Watched(served, longest_seconds=AT_ONCE)
        watched.watchdog.look()
        assert not watched.watchdog.lost


class SlowToRenew(ScriptedDevice):
    """Is spoilt, and made anew when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.goes_on = threading.Event(), threading.Event()
        self.spoil()

    def renew(self) -> None:
        self.has_begun.set()
        assert self.goes_on.wait(PATIENCE_SECONDS)
        super().renew()


def test_making_an_engine_anew_is_no_execution_and_has_a_longest_time_of_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = SlowToRenew()
    with serving(device) as served:
        assert device.has_begun.wait(PATIENCE_SECONDS)
        watched = Watched(served, longest_seconds=AT_ONCE)
        watched.watchdog.look()
        assert served.model.lost is None
        LongExecutions(served.shelf, after_seconds=0).look()
        assert "instance 0 is being made anew for 0 s without an answer" in caplog.text
        monkeypatch.setattr(gpu_watchdog, "LONGEST_RENEWAL_SECONDS", AT_ONCE)
        watched.watchdog.look()
        assert "has been made anew on GPU 0 for" in str(served.model.lost)
        device.goes_on.set()


class Suspect:
    """Has a batch on trial."""

    has_batch = True


def test_what_waits_for_its_turn_is_not_executed_meanwhile() -> None:
    trials, other = trials_on(5), Suspect()
    trials.join(other)
    trials.suspect()
    trials.take_turn(other, lambda: None)
    with serving(ScriptedDevice(gpu=5)) as served:
        served.infer("a", 1)
        eventually(lambda: bool(served.model.instances.executing()), "it has been taken")
        watched = Watched(served, longest_seconds=AT_ONCE)
        watched.watchdog.look()
        assert served.model.lost is None
        trials.leave(other)
        assert served.answers.rows_of("a") == [4]
