"""From bytes to work that waits: what is done at once, what beside the transport, and what is given up."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVarTuple

import numpy as np
import pytest
from direct_reactor import DirectReactor
from gated_server import rows
from hosted_server import connected, eventually, hosted, infer_request
from numpy.typing import NDArray
from scripted_engines import (
    PATIENCE_SECONDS,
    RAGGED,
    Answers,
    Arrays,
    Gate,
    ScriptedEngine,
    Served,
    Shelf,
    serving,
)
from shared_objects import shared_object

from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.core.service import Service
from headrace_server.errors import (
    InferenceError,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    RegionNotFound,
    ShuttingDown,
)
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.inflation import Inflation
from headrace_server.transport.intake import Intake
from headrace_server.transport.regions import Regions

Ts = TypeVarTuple("Ts")

STRINGS = ModelSpec(
    (TensorSpec("x", np.dtype(object), (ANY,)),), (TensorSpec("y", np.dtype(object), (ANY,)),), 8
)


class Echo(ScriptedEngine):
    """Answers its inputs."""

    def run(self, arrays: Sequence[NDArray[Any]]) -> Arrays:
        inputs = tuple(arrays)
        self.executed.append(inputs)
        self.before(inputs)
        return inputs


class Asked:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.work: Work | None = None
        self.more_bytes = 0
        self.has_gone = False
        self.outcome: Future[Exception | None] = Future()
        self.told: Future[bytes | InferenceError] = Future()

    def accepted(self, work: Work, more_bytes: int) -> None:
        self.work = work
        self.more_bytes = more_bytes

    def is_waiting(self) -> bool:
        return not self.has_gone

    def settled(self, error: Exception | None) -> None:
        self.outcome.set_result(error)

    def make_room(self, size_bytes: int) -> None:
        raise AssertionError("nothing here has large answers")

    def answered(self, work: Work, answer: bytes | InferenceError) -> None:
        self.told.set_result(answer)

    def answered_in_part(self, work: Work, answer: bytes) -> None:
        raise AssertionError("nothing here answers in parts")


class AskersAnswers(Answers):
    """A sink that tells the askers, as a transport does."""

    def deliver(self, answers: Any) -> None:
        for work, answer in answers:
            if isinstance(work.reply, str):
                super().deliver([(work, answer)])
            else:
                work.reply.answered(work, answer)


class Timed(DirectReactor):
    """Remembers its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[threading.Timer] = []

    def later(self, seconds: float, function: Callable[[*Ts], object], *arguments: *Ts) -> threading.Timer:
        timer = super().later(seconds, function, *arguments)
        self.timers.append(timer)
        return timer


class Entrance:
    """An intake before one gated model."""

    def __init__(self, served: Served, most_bytes: int) -> None:
        self.served = served
        self.holdings = Holdings(most_bytes)
        self.regions = Regions(allowed=True)
        self.reactor = Timed()
        self.inflation = Inflation(most_bytes)
        self.intake = self._before(served.service)
        self.asked = Asked()

    def use(self, catalogue: Shelf) -> None:
        """Stand before other models from now on."""
        self.intake.close()
        self.intake = self._before(Service(catalogue))

    def begin(self, message: Any, limit: float = NO_DEADLINE) -> Asked:
        """Take a request in as a transport does, which holds its message meanwhile."""
        data, call = message.SerializeToString(), Call()
        self.holdings.admit(call, len(data))
        asked = self.asked = Asked()
        asked.outcome.add_done_callback(lambda _: self.holdings.release(call))
        self.intake.take(data, limit, asked)
        return asked

    def take(self, message: Any, limit: float = NO_DEADLINE) -> Work:
        """Take a request in, and return it once it was submitted; raise what it was refused with."""
        asked = self.begin(message, limit)
        error = asked.outcome.result(PATIENCE_SECONDS)
        self.reactor.turn()
        self.reactor.turn()
        if error is not None:
            raise error
        assert asked.work is not None
        return asked.work

    def answer(self) -> bytes | InferenceError:
        return self.asked.told.result(PATIENCE_SECONDS)

    def _before(self, service: Service) -> Intake:
        return Intake(service, AskersAnswers(), self.reactor, self.holdings, self.regions, self.inflation)


@contextlib.contextmanager
def entrance(
    spec: ModelSpec = RAGGED, most_bytes: int = 1 << 30, gate: Gate | None = None
) -> Iterator[Entrance]:
    engine = (Echo if spec is STRINGS else ScriptedEngine)(spec, before=gate or (lambda _: None))
    with serving(engine) as served:
        made = Entrance(served, most_bytes)
        yield made
        made.intake.close()
        if gate is not None:
            gate.open()


def large(count: int = 200_000, shape: tuple[int, ...] = ()) -> Any:
    return infer_request("m", ("x", "INT64", shape or (1, count), np.arange(count).tobytes()))


def strings(count: int) -> Any:
    return infer_request("m", ("x", "BYTES", (1, count), b"\2\0\0\0hi" * count))


def test_invariant_4_compressed_messages_count_until_they_are_inflated_though_their_callers_go() -> None:
    packed = gzip.compress(rows(7).SerializeToString())
    with entrance(most_bytes=12 * len(packed)) as it:

        def take() -> Asked:
            asked = Asked()
            it.intake.take(packed, NO_DEADLINE, asked)
            return asked

        with it.inflation.inflated(packed), it.inflation.inflated(packed):
            first = [take(), take()]  # both threads wait for their turn
            gone = [take() for _ in range(10)]
            for asked in gone:
                asked.has_gone = True
            assert it.holdings.size_bytes == 12 * len(packed)
            assert isinstance(take().outcome.result(PATIENCE_SECONDS), Overloaded)
            it.holdings.most_bytes = 1 << 20
        assert [asked.outcome.result(PATIENCE_SECONDS) for asked in first] == [None, None]
        eventually(lambda: it.holdings.size_bytes == 0, "nothing is held any more")
        assert not any(asked.outcome.done() for asked in gone)


def test_a_small_request_is_submitted_at_once() -> None:
    gate = Gate()
    with entrance(gate=gate) as it:
        it.begin(rows(7))
        assert it.asked.outcome.done()
        assert it.served.model.waiting == 1
        assert it.asked.more_bytes == 0
        it.reactor.turn()
        it.reactor.turn()
        gate.open()
        assert it.answer() == np.int64(22).tobytes()


def test_a_large_request_is_read_beside_the_transport_and_answered_like_others() -> None:
    with entrance() as it:
        work = it.take(large())
        assert work.size_bytes == it.asked.more_bytes == 1_600_000
        assert it.answer() == (np.arange(200_000) * 3 + 1).tobytes()
        assert it.holdings.size_bytes == 0


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (large(shape=(1, 7)), InvalidInput, "1600000 bytes came"),
        (rows(*range(100_000), model="none"), ModelNotFound, "'none'"),
        (infer_request("m", ("z", "INT64", (1, 200_000), bytes(1_600_000))), InvalidInput, "no input 'z'"),
    ],
)
def test_a_large_request_that_is_wrong_is_refused_and_let_go(
    message: Any, error: type[Exception], text: str
) -> None:
    with entrance() as it:
        with pytest.raises(error, match=text):
            it.take(message)
        assert it.holdings.size_bytes == 0
        assert it.served.model.waiting == 0


def test_a_caller_who_goes_while_the_request_is_read_leaves_nothing_behind() -> None:
    with entrance() as it:
        asked = it.begin(large())
        asked.has_gone = True
        it.intake.close()
        assert it.served.model.statistics.success.count + it.served.model.waiting == 0


def test_others_are_answered_while_sixty_mebibytes_of_strings_are_read() -> None:
    """Were they read by the transport, they would wait for the engine before anybody else was answered."""
    gate, count = Gate(), 1 << 20
    raw = (56).to_bytes(4, "little") + b"x" * 56
    request = infer_request("m", ("x", "BYTES", (1, count), raw * count))
    with (
        serving(Echo(STRINGS, before=gate)) as served,
        hosted(served.service, max_message_bytes=64 << 20) as server,
        connected(server.address) as stub,
        connected(server.address) as other,
    ):
        call = stub.ModelInfer.future(request)
        eventually(lambda: server.transport.in_flight_bytes >= 60 << 20, "the message has come")
        assert other.ServerLive(pb.ServerLiveRequest()).live
        assert served.engine.executed == []
        (strings,) = gate.arrival()
        assert strings.shape == (1, count)
        call.cancel()
        gate.open()


class Handover(Shelf):
    """A catalogue where a version takes over as soon as the one before it has been found."""

    def __init__(self, old: Model, new: Model) -> None:
        super().__init__(old)
        self._new = new

    def find(self, name: str, version: str) -> Model:
        found = super().find(name, version)
        self.put(self._new)
        return found


def test_a_request_moves_to_the_version_that_has_taken_over_and_is_held_there_for_others() -> None:
    old, new = (Model("m", number, RAGGED, "scripted", Limits()) for number in "12")
    old.close(drain=False)
    with entrance() as it:
        it.use(Handover(old, new))
        asked = [it.begin(rows(7)), it.begin(rows(8))]
        assert new.take(wait=False) == [], "the transport has not looked for others"
        it.reactor.turn()
        it.reactor.turn()
        assert new.take(wait=False) == [one.work for one in asked]
        assert [one.outcome.result(0) for one in asked] == [None, None]
        assert old.snapshot().fail.count == 0


def test_a_slow_request_moves_to_the_version_that_has_taken_over_and_is_refused_where_none_has() -> None:
    old = Model("m", "1", RAGGED, "scripted", Limits())
    old.close(drain=False)
    with entrance() as it:
        it.use(Handover(old, it.served.model))
        assert it.take(large()).model is it.served.model
        assert it.answer() == (np.arange(200_000) * 3 + 1).tobytes()
        it.use(Shelf(old))
        with pytest.raises(ShuttingDown, match="model 'm' is being closed"):
            it.take(large())


def test_what_strings_take_as_objects_counts_before_they_are_made() -> None:
    with entrance(STRINGS, most_bytes=16 << 20) as it:
        it.holdings.admit(Call(), 1)
        work = it.take(strings(100_000))
        assert work.size_bytes >= 6_400_000
        with pytest.raises(Overloaded, match="the limit is 16777216"):
            it.take(strings(300_000))
        assert it.holdings.size_bytes == 1


def test_invariant_4_a_request_has_a_bounded_number_of_strings() -> None:
    many = infer_request("m", ("x", "BYTES", (1, 1 << 21), bytes(4 << 21)))
    with entrance(STRINGS) as it:
        with pytest.raises(InvalidInput, match="2097152 strings came, a request may have at most 1048576"):
            it.take(many)
        assert it.holdings.size_bytes == 0


def test_strings_in_shared_memory_count_as_those_in_messages() -> None:
    raw = b"\2\0\0\0hi" * 300_000
    request = infer_request("m", ("x", "BYTES", (1, 300_000), b""))
    del request.raw_input_contents[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = len(raw)
    with shared_object(raw) as shared, entrance(STRINGS, most_bytes=16 << 20) as it:
        with pytest.raises(RegionNotFound):
            it.take(request)
        it.regions.register("r", shared.key, 0, len(raw))
        it.holdings.admit(Call(), 1)
        with pytest.raises(Overloaded):
            it.take(request)


def test_shared_memory_that_could_never_be_held_is_refused_unread() -> None:
    request = infer_request("m", ("x", "INT64", (1, 1 << 30), b""))
    del request.raw_input_contents[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 8 << 30
    with shared_object(b"") as shared:
        shared.resize(8 << 30)
        with entrance(most_bytes=1 << 20) as it:
            it.regions.register("r", shared.key, 0, 8 << 30)
            with pytest.raises(InvalidInput, match="take 8589934592 bytes of shared memory; at most 1048576"):
                it.take(request)


def test_a_requests_own_timeout_is_told_while_the_engine_is_busy() -> None:
    gate = Gate()
    with entrance(gate=gate) as it:
        it.served.infer("first", 1)
        gate.arrival()
        work = it.take(rows(1, timeout=10_000), time.monotonic() + 60)
        assert "the deadline passed" in str(it.answer())
        it.intake.abandon(work)


def test_work_that_is_answered_as_it_is_submitted_leaves_no_timer() -> None:
    class Swift(Model):
        def submit(self, work: Work, *, hold: bool = False) -> None:
            super().submit(work, hold=hold)
            self.expire(work)

    with entrance() as it:
        it.use(Shelf(Swift("m", "1", RAGGED, "scripted", Limits())))
        it.begin(rows(1, timeout=3_600_000_000))
        assert it.asked.told.done()
        assert it.asked.outcome.result(0) is None
        (timer,) = it.reactor.timers
        assert timer.finished.is_set()


def test_abandoned_work_is_never_executed_and_its_timer_does_not_keep_it() -> None:
    gate = Gate()
    with entrance(gate=gate) as it:
        it.served.infer("first", 1)
        gate.arrival()
        it.intake.abandon(it.take(rows(1, timeout=3_600_000_000)))
        assert it.served.model.waiting == 0
        assert not it.asked.told.done()
        gate.open()
        it.served.answers.wait_for("first")
        assert len(it.served.engine.executed) == 1
