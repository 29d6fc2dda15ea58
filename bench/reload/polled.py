"""Operations by changing the folders, which the server looks at every so often."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from bench.reload.ledger import REMOVED
from bench.reload.scene import POLICIES, Scene, states
from headrace_proto.v1 import inference_pb2 as pb

_BETWEEN_LOOKS_SECONDS: Final = 0.01
_PATIENCE_SECONDS: Final = 30.0


class Polled:
    """Operations on the models of a scene; each returns when the server has acted on it."""

    def __init__(self, scene: Scene, stub: Any) -> None:
        """`stub` is of the awaited kind."""
        self._scene = scene
        self._stub = stub
        self._rows = 16
        self.cycle: tuple[Callable[[str], Awaitable[None]], ...] = (
            self.new_version_renamed,
            self.changed_file,
            self.new_version_written,
            self.broken_version,
            self.broken_version_removed,
            self.version_removed,
            self.other_configuration,
            self.wrong_configuration,
            self.configuration_mended,
            self.model_removed,
            self.model_brought_back,
            self.version_removed,
        )

    async def new_version_renamed(self, model: str) -> None:
        """A higher version is written aside, and renamed into its place."""
        serial = self._scene.place(model, self._scene.newest(model) + 1)
        await self._await_answer(model, serial, "poll, a version renamed into place")

    async def new_version_written(self, model: str) -> None:
        """A higher version is written where it is to stand."""
        serial = self._scene.write(model, self._scene.newest(model) + 1)
        await self._await_answer(model, serial, "poll, a version written in place")

    async def changed_file(self, model: str) -> None:
        """The file of the newest version is written over."""
        serial = self._scene.write(model, self._scene.newest(model))
        await self._await_answer(model, serial, "poll, a version written in place")

    async def version_removed(self, model: str) -> None:
        """The newest version is removed, and the one before it serves."""
        number = self._scene.newest(model)
        del self._scene.held[model][number]
        with self._scene.ledger.changing(model, self._scene.right(model)):
            shutil.rmtree(self._scene.folder / model / str(number))
            await self._await_states(model, lambda told: str(number) not in told)

    async def broken_version(self, model: str) -> None:
        """A higher version is no model: what serves goes on, and the index tells why."""
        number = self._scene.newest(model) + 1
        self._scene.spoil(model, number)
        await self._await_states(model, lambda told: "model.onnx" in told.get(str(number), ("", ""))[1])

    async def broken_version_removed(self, model: str) -> None:
        """The version that is no model is removed."""
        number = self._scene.newest(model) + 1
        shutil.rmtree(self._scene.folder / model / str(number))
        await self._await_states(model, lambda told: str(number) not in told)

    async def other_configuration(self, model: str) -> None:
        """The same files are to be served in other batches."""
        self._rows += 1
        stop = self._scene.stopwatch("poll, a changed configuration")
        self._configure(model, f"max_batch_size: {self._rows}\n")
        rows = self._rows

        async def has_come() -> bool:
            return await self._batch_size(model) == rows

        await _until(has_come)
        stop(time.perf_counter())

    async def wrong_configuration(self, model: str) -> None:
        """The configuration has a field that there is not: what serves goes on, and the index tells why."""
        self._configure(model, "max_batch: 16\n")
        await self._await_states(
            model, lambda told: any("max_batch" in reason for _, reason in told.values())
        )

    async def configuration_mended(self, model: str) -> None:
        """The configuration is as it was at first."""
        self._configure(model, "")
        await self._await_states(
            model, lambda told: not any("max_batch" in reason for _, reason in told.values())
        )

    async def model_removed(self, model: str) -> None:
        """The model's folder is taken away: from now on calls may be refused."""
        away = frozenset({REMOVED})
        with self._scene.ledger.changing(model, {"": away, "1": away}):
            (self._scene.folder / model).rename(self._aside(model))
            await self._await_states(model, lambda told: not told)

    async def model_brought_back(self, model: str) -> None:
        """The model's folder is back, with another file in its newest version."""
        aside, number = self._aside(model), self._scene.newest(model)
        shutil.rmtree(aside / str(number))
        serial = self._scene.place(model, number, into=aside)
        aside.rename(self._scene.folder / model)
        await self._await_answer(model, serial, "poll, a model renamed into place")

    def _aside(self, model: str) -> Path:
        """Return where a model's folder is while it is away."""
        return self._scene.folder / f".{model}-away"

    async def _await_answer(self, model: str, serial: int, way: str) -> None:
        """Wait for the first answer of a file that was just written, and measure how long that takes."""
        stop = self._scene.stopwatch(way)
        with self._scene.ledger.changing(model, self._scene.right(model)):
            stop(await self._scene.ledger.seen(serial))

    async def _await_states(self, model: str, holds: Callable[[dict[str, tuple[str, str]]], bool]) -> None:
        """Wait until the index tells so of the model's versions."""

        async def is_told() -> bool:
            return holds(await states(self._stub, model))

        await _until(is_told)

    async def _batch_size(self, model: str) -> int:
        answer = await self._stub.ModelConfig(pb.ModelConfigRequest(name=model))
        return int(answer.config.max_batch_size)

    def _configure(self, model: str, more: str) -> None:
        (self._scene.folder / model / "config.pbtxt").write_text(POLICIES[model] + more)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds: the server tells nobody when it has acted."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110  # nothing in this process sets an event
            await asyncio.sleep(_BETWEEN_LOOKS_SECONDS)
