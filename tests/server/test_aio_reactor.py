"""Where the event loop does what others ask of it."""

from __future__ import annotations

import asyncio
import threading

from hosted_server import until

from headrace_server.transport.aio.reactor import LoopReactor


async def test_what_is_asked_on_the_loops_thread_is_done_at_once_and_else_there() -> None:
    reactor = LoopReactor(asyncio.get_running_loop())
    done_by: list[int] = []

    def do() -> None:
        done_by.append(threading.get_ident())

    reactor.run(do)
    assert done_by == [threading.get_ident()]
    await asyncio.to_thread(reactor.run, do)
    await until(lambda: len(done_by) == 2)
    assert done_by == [threading.get_ident()] * 2
