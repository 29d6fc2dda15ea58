"""gRPC's server, and another one on the same addresses when it has ended by itself.

grpc.aio reads the path of every call as UTF-8, and one that is none ends the task that takes calls in, for
good: nobody listens any more, while calls that were taken in are still answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import grpc

from headrace_server.listen_address import ListenAddress
from headrace_server.transport.listening import Listening
from headrace_server.transport.options import TransportOptions

_logger = logging.getLogger(__name__)

_ACCEPTING: Final = "AioServer._server_main_loop"
"""What takes calls in. Where a grpcio calls it otherwise, nobody learns of its end."""
_ENDING: Final = "AioServer.shutdown"
"""What gRPC begins then by itself; it fails as what takes calls in has failed, and nobody waits for it."""
_FIRST_PAUSE_SECONDS: Final = 0.02
"""gRPC needs some milliseconds to give an address back."""
_LONGEST_PAUSE_SECONDS: Final = 1.0
_NEVER_SECONDS: Final = 1e9

Task = asyncio.Task[Any]


class RenewedServer:
    """Listens from its start to its stop, but for moments."""

    def __init__(self, options: TransportOptions, handlers: grpc.GenericRpcHandler) -> None:
        self._options = options
        self._handlers = handlers
        self._listening = [Listening(options.addresses, options.credentials)]
        self._server = self._made()
        self._ended: dict[grpc.aio.Server, Task] = {}
        """Servers that answer their last calls."""
        self._bound: Sequence[ListenAddress] = ()
        self._renewal: Task | None = None
        self._is_over = False

    async def start(self) -> tuple[ListenAddress, ...]:
        """Listen, and return the addresses with the ports that they got.

        Raises PortError, and what making the credentials raises.
        """
        bound = self._listening[0].open(self._bind)
        self._bound = bound
        await self._accept()
        return bound

    async def stop(self, grace_seconds: float) -> None:
        """Take no call any more; what is open has this time left to end."""
        self._is_over = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        servers = (self._server, *self._ended)
        await asyncio.gather(*(server.stop(grace_seconds) for server in servers))
        for listening in self._listening:
            listening.close()

    def _made(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=self._options.channel_arguments())
        server.add_generic_rpc_handlers((self._handlers,))
        return server

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError:
            return 0

    async def _accept(self) -> None:
        others = set(_tasks(_ACCEPTING))
        await self._server.start()
        for task in _tasks(_ACCEPTING):
            if task not in others:
                task.add_done_callback(self._look)

    def _look(self, accepting: Task) -> None:
        error = None if accepting.cancelled() else accepting.exception()
        if self._is_over or error is None:
            return
        for task in _tasks(_ENDING):
            task.add_done_callback(_retrieve)
        _logger.error(
            "grpc.aio takes no calls in any more (%s: %s) and is begun anew, which clients see as a lost "
            "connection; --grpc-transport completion-queue does not have this fault",
            type(error).__name__,
            error,
        )
        self._renewal = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        self._ended[self._server] = asyncio.create_task(self._see_off(self._server))
        self._server = self._made()
        self._listening = []
        for address in self._bound:
            await self._listen_again(address)
        await self._accept()
        _logger.info("listening again on %s", ", ".join(map(str, self._bound)))

    async def _listen_again(self, address: ListenAddress) -> None:
        pause = _FIRST_PAUSE_SECONDS
        listening = Listening((address,), self._options.credentials)
        self._listening.append(listening)
        is_told = False
        while True:
            await asyncio.sleep(pause)
            try:
                listening.open(self._bind)
            except Exception as error:  # certificates too may be as they should be the next time
                if pause >= _LONGEST_PAUSE_SECONDS and not is_told:
                    is_told = True
                    _logger.error("%s; tried again every second", error)  # noqa: TRY400  # it says it all
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                return

    async def _see_off(self, server: grpc.aio.Server) -> None:
        """Free what the server holds, once its calls are over."""
        with suppress(Exception):
            await server.stop(_NEVER_SECONDS)
        del self._ended[server]


def _tasks(name: str) -> list[Task]:
    """Return the tasks of the running loop that run the coroutine of this name."""
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == name]


def _retrieve(task: Task) -> None:
    """Keep asyncio from saying that nobody has asked for the task's error."""
    if not task.cancelled():
        task.exception()
