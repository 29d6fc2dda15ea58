"""What is done beside the event loop, what is held for it, and what becomes of it when its caller goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from hosted_server import until
from scripted_engines import PATIENCE_SECONDS

from headrace_server.errors import InvalidInput, Overloaded
from headrace_server.transport.aside import Aside
from headrace_server.transport.holdings import Call, Holdings


class Beside:
    """An `Aside`, with threads that can be kept busy."""

    def __init__(self) -> None:
        self.holdings = Holdings(100)
        self.aside = Aside(asyncio.get_running_loop(), self.holdings)
        self.gate = threading.Event()
        self.done: list[object] = []

    def wait(self) -> None:
        assert self.gate.wait(PATIENCE_SECONDS)

    async def occupy(self) -> list[asyncio.Task[None]]:
        """Keep both threads waiting for the gate."""
        tasks = [asyncio.create_task(self.aside.run(10, self.wait)) for _ in range(2)]
        await until(lambda: self.holdings.size_bytes == 20)
        return tasks


@pytest.fixture
async def beside() -> AsyncIterator[Beside]:
    made = Beside()
    yield made
    made.gate.set()
    made.aside.close()


async def test_the_loop_goes_on_meanwhile(beside: Beside) -> None:
    waiting = asyncio.create_task(beside.aside.run(10, beside.wait))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert beside.holdings.size_bytes == 10
    beside.gate.set()
    await waiting
    assert beside.holdings.size_bytes == 0


async def test_what_comes_of_it_is_returned_or_raised(beside: Beside) -> None:
    assert await beside.aside.run(10, lambda: 7) == 7

    def refuse() -> None:
        raise InvalidInput("wrong")

    with pytest.raises(InvalidInput, match="wrong"):
        await beside.aside.run(10, refuse)
    assert beside.holdings.size_bytes == 0


async def test_invariant_4_more_than_the_limit_is_refused_and_not_done(beside: Beside) -> None:
    tasks = await beside.occupy()
    with pytest.raises(Overloaded, match="20 bytes are in flight, the limit is 100"):
        await beside.aside.run(81, lambda: beside.done.append("refused"))
    beside.gate.set()
    await asyncio.gather(*tasks)
    assert beside.done == []


async def test_a_request_that_is_alone_may_have_any_size(beside: Beside) -> None:
    beside.holdings.admit(Call(), 90)
    assert await beside.aside.run(500, lambda: 7, own_bytes=90) == 7
    with pytest.raises(Overloaded):
        await beside.aside.run(500, lambda: 7, own_bytes=80)


async def test_what_nobody_waits_for_any_more_is_not_begun_and_held_until_then(beside: Beside) -> None:
    tasks = await beside.occupy()
    gone = asyncio.create_task(beside.aside.run(30, lambda: beside.done.append("gone")))
    stays = asyncio.create_task(beside.aside.run(30, lambda: beside.done.append("stays")))
    await until(lambda: beside.holdings.size_bytes == 80)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert beside.holdings.size_bytes == 80
    beside.gate.set()
    await asyncio.gather(stays, *tasks)
    assert beside.done == ["stays"]
    await until(lambda: beside.holdings.size_bytes == 0)


async def test_a_caller_who_goes_in_the_middle_costs_nothing_when_it_fails(
    beside: Beside, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        beside.wait()
        raise InvalidInput("wrong")

    gone = asyncio.create_task(beside.aside.run(30, fail))
    await until(lambda: beside.holdings.size_bytes > 0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    beside.gate.set()
    await until(lambda: beside.holdings.size_bytes == 0)
    assert caplog.records == []
