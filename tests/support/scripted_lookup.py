"""A look-up whose answers a test gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from headrace.endpoint import Endpoint


class Script:
    """A look-up that says what it is told to."""

    def __init__(self) -> None:
        self.sets: asyncio.Queue[tuple[Endpoint, ...]] = asyncio.Queue()
        self.over = False

    async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        try:
            while True:
                yield await self.sets.get()
        finally:
            self.over = True
