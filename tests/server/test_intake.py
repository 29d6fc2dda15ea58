"""From bytes to work that waits: what is done at once, what beside the loop, and what is given up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
from gated_server import rows
from hosted_server import connected, eventually, hosted, infer_request, until
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
from headrace_server.core.request import NO_DEADLINE
from headrace_server.core.service import Service
from headrace_server.errors import InvalidInput, ModelNotFound, Overloaded, RegionNotFound, ShuttingDown
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.inflation import Inflation
from headrace_server.transport.intake import Intake
from headrace_server.transport.shared_memory import Regions

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


class Reply:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def __call__(self, answer: Any) -> None:
        self.told.set_result(answer)

    def part(self, answer: bytes, window: Any) -> None:
        raise AssertionError("nothing here answers in parts")


class LoopAnswers(Answers):
    """A sink that tells the replies, as a transport does."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()

    def deliver(self, answers: Any) -> None:
        for work, answer in answers:
            self._loop.call_soon_threadsafe(work.reply, answer)


class Entrance:
    """An intake before one gated model."""

    def __init__(self, served: Served, most_bytes: int) -> None:
        self.served = served
        self.holdings = Holdings(most_bytes)
        self.regions = Regions(allowed=True)
        loop = asyncio.get_running_loop()
        self.intake = Intake(
            served.service, LoopAnswers(), loop, self.holdings, self.regions, Inflation(most_bytes)
        )
        self.reply = Reply()

    def take(self, message: Any, limit: float = NO_DEADLINE) -> Any:
        return self.intake.take(message.SerializeToString(), limit, self.reply)

    async def take_slowly(self, message: Any) -> Any:
        """Take a request as a transport does, which holds its message meanwhile."""
        data, call = message.SerializeToString(), Call()
        self.holdings.admit(call, len(data))
        try:
            return await self.intake.take_slowly(data, NO_DEADLINE, self.reply)
        finally:
            self.holdings.release(call)

    async def answer(self) -> Any:
        return await asyncio.wait_for(self.reply.told, PATIENCE_SECONDS)


@contextlib.asynccontextmanager
async def entrance(
    spec: ModelSpec = RAGGED, most_bytes: int = 1 << 30, gate: Gate | None = None
) -> AsyncIterator[Entrance]:
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


async def test_a_small_request_is_submitted_at_once() -> None:
    gate = Gate()
    async with entrance(gate=gate) as it:
        work = it.take(rows(7))
        assert work is not None
        assert it.served.model.waiting == 1
        gate.open()
        assert await it.answer() == np.int64(22).tobytes()


async def test_a_large_request_is_read_beside_the_loop_and_answered_like_others() -> None:
    async with entrance() as it:
        assert it.take(large()) is None
        assert it.served.model.waiting == 0
        reading = asyncio.create_task(it.take_slowly(large()))
        await asyncio.sleep(0)
        assert it.holdings.size_bytes > 1_600_000, "what is being read is held"
        work = await reading
        assert work.size_bytes == 1_600_000
        assert await it.answer() == (np.arange(200_000) * 3 + 1).tobytes()
        assert it.holdings.size_bytes == 0


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (large(shape=(1, 7)), InvalidInput, "1600000 bytes came"),
        (rows(*range(100_000), model="none"), ModelNotFound, "'none'"),
        (infer_request("m", ("z", "INT64", (1, 200_000), bytes(1_600_000))), InvalidInput, "no input 'z'"),
    ],
)
async def test_a_large_request_that_is_wrong_is_refused_and_let_go(
    message: Any, error: type[Exception], text: str
) -> None:
    async with entrance() as it:
        with pytest.raises(error, match=text):
            await it.take_slowly(message)
        assert it.holdings.size_bytes == 0
        assert it.served.model.waiting == 0


async def test_a_caller_who_goes_while_the_request_is_read_leaves_nothing_behind() -> None:
    async with entrance() as it:
        reading = asyncio.create_task(it.take_slowly(large()))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: it.holdings.size_bytes == 0)
        assert it.served.model.statistics.success.count + it.served.model.waiting == 0


def test_the_loop_answers_others_while_sixty_mebibytes_of_strings_are_read() -> None:
    """Were they read on the loop, they would wait for the engine before anybody else was answered."""
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
        server.run(asyncio.sleep(0))
        assert served.model.waiting == 0
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


async def test_a_slow_request_moves_to_the_version_that_has_taken_over_and_is_refused_where_none_has() -> (
    None
):
    old = Model("m", "1", RAGGED, "scripted", Limits())
    old.close(drain=False)
    async with entrance() as it:
        loop = asyncio.get_running_loop()

        def before(catalogue: Shelf) -> Intake:
            service = Service(catalogue)
            return Intake(service, LoopAnswers(), loop, it.holdings, it.regions, Inflation(1 << 30))

        data = large().SerializeToString()
        intake = before(Handover(old, it.served.model))
        work = await intake.take_slowly(data, NO_DEADLINE, it.reply)
        intake.close()
        assert work.model is it.served.model
        assert await it.answer() == (np.arange(200_000) * 3 + 1).tobytes()
        intake = before(Shelf(old))
        with pytest.raises(ShuttingDown, match="model 'm' is being closed"):
            await intake.take_slowly(data, NO_DEADLINE, it.reply)
        intake.close()


async def test_what_strings_take_as_objects_counts_before_they_are_made() -> None:
    async with entrance(STRINGS, most_bytes=16 << 20) as it:
        it.holdings.admit(Call(), 1)
        work = await it.take_slowly(strings(100_000))
        assert work.size_bytes >= 6_400_000
        with pytest.raises(Overloaded, match="the limit is 16777216"):
            await it.take_slowly(strings(300_000))
        assert it.holdings.size_bytes == 1


async def test_invariant_4_a_request_has_a_bounded_number_of_strings() -> None:
    many = infer_request("m", ("x", "BYTES", (1, 1 << 21), bytes(4 << 21)))
    async with entrance(STRINGS) as it:
        with pytest.raises(InvalidInput, match="2097152 strings came, a request may have at most 1048576"):
            await it.take_slowly(many)
        assert it.holdings.size_bytes == 0


async def test_strings_in_shared_memory_count_as_those_in_messages() -> None:
    raw = b"\2\0\0\0hi" * 300_000
    request = infer_request("m", ("x", "BYTES", (1, 300_000), b""))
    del request.raw_input_contents[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = len(raw)
    with shared_object(raw) as shared:
        async with entrance(STRINGS, most_bytes=16 << 20) as it:
            with pytest.raises(RegionNotFound):
                it.take(request)
            it.regions.register("r", shared.key, 0, len(raw))
            assert it.take(request) is None
            it.holdings.admit(Call(), 1)
            with pytest.raises(Overloaded):
                await it.take_slowly(request)


async def test_shared_memory_that_could_never_be_held_is_refused_unread() -> None:
    request = infer_request("m", ("x", "INT64", (1, 1 << 30), b""))
    del request.raw_input_contents[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 8 << 30
    with shared_object(b"") as shared:
        shared.resize(8 << 30)
        async with entrance(most_bytes=1 << 20) as it:
            it.regions.register("r", shared.key, 0, 8 << 30)
            with pytest.raises(InvalidInput, match="take 8589934592 bytes of shared memory; at most 1048576"):
                await it.take_slowly(request)


async def test_a_requests_own_timeout_is_told_while_the_engine_is_busy() -> None:
    gate = Gate()
    async with entrance(gate=gate) as it:
        it.served.infer("first", 1)
        await asyncio.to_thread(gate.arrival)
        work = it.take(rows(1, timeout=10_000), time.monotonic() + 60)
        assert "the deadline passed" in str(await it.answer())
        it.intake.abandon(work)


async def test_abandoned_work_is_never_executed_and_its_timer_does_not_keep_it() -> None:
    gate = Gate()
    async with entrance(gate=gate) as it:
        it.served.infer("first", 1)
        await asyncio.to_thread(gate.arrival)
        it.intake.abandon(it.take(rows(1, timeout=3_600_000_000)))
        assert it.served.model.waiting == 0
        assert not it.reply.told.done()
        gate.open()
        it.served.answers.wait_for("first")
        assert len(it.served.engine.executed) == 1
