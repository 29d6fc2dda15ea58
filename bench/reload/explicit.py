"""Operations at a caller's word: RepositoryModelLoad and RepositoryModelUnload, good ones and bad ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc

from bench.reload.ledger import UNLOADED, Answers
from bench.reload.scene import SECOND, OperationError, Scene, adder, right, states
from headrace_proto.v1 import inference_pb2 as pb

_LOAD_SECONDS: Final = 60.0
_ALL_VERSIONS: Final[Mapping[str, object]] = {"version_policy": {"all": {}}}
_FAILING_WARM_UP: Final = {
    "model_warmup": [
        {
            "name": "w",
            "batch_size": 1,
            "inputs": {"nobody": {"data_type": "TYPE_FP32", "dims": [1], "zero_data": True}},
        }
    ]
}


class Explicit:
    """Operations on the models of a scene; each returns when it is done, or has failed as it should."""

    def __init__(self, scene: Scene, stub: Any) -> None:
        """`stub` is of the awaited kind."""
        self._scene = scene
        self._stub = stub
        self.cycle: tuple[Callable[[str], Awaitable[None]], ...] = (
            self.new_version,
            self.changed_file,
            self.other_configuration,
            self.broken_version,
            self.callers_files,
            self.unload,
            self.load,
            self.wrong_configuration,
            self.version_removed,
            self.failing_warm_up,
        )

    async def new_version(self, model: str) -> None:
        """A higher version is written beside the others."""
        self._scene.write(model, self._scene.newest(model) + 1)
        await self._load(model, self._scene.right(model), way="explicit, a new version")

    async def changed_file(self, model: str) -> None:
        """The file of the newest version is written over."""
        self._scene.write(model, self._scene.newest(model))
        await self._load(model, self._scene.right(model), way="explicit, a changed file")

    async def version_removed(self, model: str) -> None:
        """The newest version is removed, and the one before it serves."""
        number = self._scene.newest(model)
        shutil.rmtree(self._scene.folder / model / str(number))
        del self._scene.held[model][number]
        await self._load(model, self._scene.right(model))

    async def other_configuration(self, model: str) -> None:
        """The caller says otherwise than the file: the same rows, in other batches."""
        await self._load(model, self._scene.right(model), {"max_batch_size": 16, **_policy(model)})

    async def callers_files(self, model: str) -> None:
        """The caller sends versions along, and after them the repository's own are loaded again."""
        ledger = self._scene.ledger
        sent = {number: ledger.register(model, number) for number in (1, 99)}
        files = {f"{number}/model.onnx": adder(serial) for number, serial in sent.items()}
        await self._load(model, right(sent), _policy(model), files, way="explicit, files of the caller")
        await self._load(model, self._scene.right(model))

    async def unload(self, model: str) -> None:
        """The model is unloaded: from now on it may be refused."""
        away = frozenset({UNLOADED})
        with self._scene.ledger.changing(model, {"": away, "1": away}):
            await self._stub.RepositoryModelUnload(
                pb.RepositoryModelUnloadRequest(model_name=model), timeout=_LOAD_SECONDS
            )

    async def load(self, model: str) -> None:
        """The model is loaded as the repository holds it."""
        await self._load(model, self._scene.right(model))

    async def broken_version(self, model: str) -> None:
        """A new version is no model: what serves goes on, and the index tells why."""
        number = self._scene.newest(model) + 1
        folder = self._scene.spoil(model, number)
        await self._load_in_vain(model)
        state, reason = (await states(self._stub, model))[str(number)]
        if state != "UNAVAILABLE" or "model.onnx" not in reason:
            raise OperationError(f"{model} version {number} is told to be {state}: {reason}")
        shutil.rmtree(folder)

    async def wrong_configuration(self, model: str) -> None:
        """The caller's configuration has a field that there is not."""
        await self._load_in_vain(model, {"max_batch": 16})

    async def failing_warm_up(self, model: str) -> None:
        """The caller's configuration has a sample that the model does not take."""
        await self._load_in_vain(model, {**_policy(model), **_FAILING_WARM_UP})

    async def _load(
        self,
        model: str,
        answers: Answers,
        config: dict[str, object] | None = None,
        files: dict[str, bytes] | None = None,
        way: str = "",
    ) -> None:
        """Load, and where a `way` of changing is named, measure the time to the first answer."""
        stop = self._scene.stopwatch(way)
        with self._scene.ledger.changing(model, answers):
            await self._call(model, config, files or {})
        if way:
            (newest,) = answers[""]
            stop(await self._scene.ledger.seen(newest))

    async def _load_in_vain(self, model: str, config: dict[str, object] | None = None) -> None:
        try:
            await self._call(model, config, {})
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
        else:
            raise OperationError(f"a load of {model} should have failed, with {config}")

    async def _call(self, model: str, config: dict[str, object] | None, files: dict[str, bytes]) -> None:
        request = pb.RepositoryModelLoadRequest(model_name=model)
        if config is not None:
            request.parameters["config"].string_param = json.dumps(config)
        for path, content in files.items():
            request.parameters[f"file:{path}"].bytes_param = content
        await self._stub.RepositoryModelLoad(request, timeout=_LOAD_SECONDS)


def _policy(model: str) -> dict[str, object]:
    return {**_ALL_VERSIONS} if model == SECOND else {}
