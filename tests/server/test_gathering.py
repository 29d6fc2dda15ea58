from __future__ import annotations

import asyncio

from scripted_engines import Answers, rows_spec
from works import work_of

from headrace_server.core.model import Limits, Model
from headrace_server.core.request import Work
from headrace_server.transport.aio.reactor import LoopReactor
from headrace_server.transport.gathering import Gathering


class Noted(Model):
    """A model that tells when it is released."""

    def __init__(self, max_batch_size: int = 4) -> None:
        super().__init__("m", "1", rows_spec(max_batch_size), "scripted", Limits())
        self.releases: list[int] = []
        self.released = asyncio.Event()
        self.added = 0

    def release(self) -> None:
        self.releases.append(self.added)
        self.released.set()

    def work(self, rows: int = 1) -> Work:
        self.added += 1
        return work_of(self, Answers(), rows=rows)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_request_that_comes_alone_is_released_within_a_few_turns() -> None:
    model, gathering = Noted(), Gathering(LoopReactor(asyncio.get_running_loop()))
    gathering.add(model.work())
    assert model.releases == []
    await turns(60)
    assert model.releases == [1]


async def test_requests_of_successive_turns_are_released_together() -> None:
    model = Noted(max_batch_size=64)
    gathering = Gathering(LoopReactor(asyncio.get_running_loop()), most_seconds=3600)
    for _ in range(8):
        gathering.add(model.work())
        await turns(3)
    await model.released.wait()
    assert model.releases == [8]


async def test_a_full_batch_is_released_at_once() -> None:
    model, gathering = Noted(max_batch_size=4), Gathering(LoopReactor(asyncio.get_running_loop()))
    for _ in range(3):
        gathering.add(model.work())
    assert model.releases == []
    gathering.add(model.work())
    assert model.releases == [4]
    await turns(60)
    assert model.releases == [4], "what was released is not released again"


async def test_requests_that_keep_trickling_in_are_not_held_for_ever() -> None:
    model, gathering = Noted(max_batch_size=10**9), Gathering(LoopReactor(asyncio.get_running_loop()))

    async def trickle() -> None:
        while not model.releases:
            gathering.add(model.work())
            await asyncio.sleep(0)

    await asyncio.wait_for(trickle(), 10)
    assert model.releases[0] > 1


async def test_models_are_gathered_apart() -> None:
    one, other = Noted(max_batch_size=2), Noted(max_batch_size=2)
    gathering = Gathering(LoopReactor(asyncio.get_running_loop()))
    gathering.add(one.work())
    gathering.add(other.work())
    gathering.add(one.work())
    assert (one.releases, other.releases) == ([2], [])
    await turns(60)
    assert (one.releases, other.releases) == ([2], [1])
