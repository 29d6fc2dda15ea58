"""The calls that list, load and unload models, as messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.catalogue import IsWanted, ModelState, Override
from headrace_server.core.service import Service
from headrace_server.errors import InvalidInput

_CONFIG: Final = "config"
_FILE: Final = "file:"
_DEPENDENTS: Final = "unload_dependents"

_Parameters = Mapping[str, pb.ModelRepositoryParameter]
_Kind = Literal["bool_param", "int64_param", "string_param", "bytes_param"]


class RepositoryCalls:
    """Answers for one service. Every call may block: it reads folders, and waits for models."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """List how each version stands, or only those that are ready."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name, version=entry.version, state=entry.state.value, reason=entry.reason
                )
                for entry in self._service.index(request.repository_name)
                if entry.state is ModelState.READY or not request.ready
            ]
        )

    def load(
        self, request: pb.RepositoryModelLoadRequest, is_wanted: IsWanted
    ) -> pb.RepositoryModelLoadResponse:
        """Load or reload a model."""
        override = _override(request.parameters)
        self._service.load_model(request.model_name, override, request.repository_name, is_wanted)
        return pb.RepositoryModelLoadResponse()

    def unload(
        self, request: pb.RepositoryModelUnloadRequest, is_wanted: IsWanted
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model; no model depends on another one, so that there are no dependents to unload."""
        for name, parameter in request.parameters.items():
            if name != _DEPENDENTS:
                raise InvalidInput(f"parameter {name!r} came; unloading takes {_DEPENDENTS}")
            _check(name, parameter, "bool_param")
        self._service.unload_model(request.model_name, request.repository_name, is_wanted)
        return pb.RepositoryModelUnloadResponse()


def _override(parameters: _Parameters) -> Override | None:
    if not parameters:
        return None
    config = None
    files = {}
    for name, parameter in parameters.items():
        if name == _CONFIG:
            _check(name, parameter, "string_param")
            config = parameter.string_param
        elif name.startswith(_FILE):
            _check(name, parameter, "bytes_param")
            files[name.removeprefix(_FILE)] = parameter.bytes_param
        else:
            raise InvalidInput(f"parameter {name!r} came; loading takes {_CONFIG} and {_FILE}VERSION/FILE")
    return Override(config, files)


def _check(name: str, parameter: pb.ModelRepositoryParameter, expected: _Kind) -> None:
    came = parameter.WhichOneof("parameter_choice")
    if came != expected:
        raise InvalidInput(f"parameter {name!r}: {came or 'nothing'} came, {expected} expected")
