"""The calls beside inference: each takes a request message and returns the answer's message."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf.message import Message

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.service import Service
from headrace_server.transport import describe
from headrace_server.transport.repository_calls import RepositoryCalls


class Blocking(enum.Enum):
    """How long answering holds the thread that it is done on."""

    NEVER = enum.auto()
    BRIEFLY = enum.auto()
    """It reads folders, or waits for a GPU."""
    LONG = enum.auto()
    """It waits for models; the function is also given what tells whether the caller still waits."""


def _everybody() -> None:
    """Permit the call."""


class Procedure(NamedTuple):
    """One remote procedure: what it takes, and the function that answers, on a thread if it is `blocking`."""

    request: type[Message]
    answer: Callable[..., Message]
    blocking: Blocking = Blocking.NEVER
    is_short: bool = True
    """Told in few bytes: a larger message is refused unread, for all wait while one is parsed."""
    permit: Callable[[], None] = _everybody
    """Raises where nobody may call it, whatever the message says."""
    extension: str = ""
    """The extension of the protocol that a server has with it, where not every server has that."""


class Control:
    """Answers for one service and the limits that it runs with."""

    def __init__(self, service: Service, further: Mapping[str, Procedure] = MappingProxyType({})) -> None:
        """`further` are procedures that somebody else answers."""
        self._service = service
        self._further = further

    def procedures(self) -> dict[str, Procedure]:
        """Return every procedure by name, but the two that infer."""
        repository = RepositoryCalls(self._service)
        served = {
            "ServerLive": Procedure(pb.ServerLiveRequest, self._server_live),
            "ServerReady": Procedure(pb.ServerReadyRequest, self._server_ready),
            "ModelReady": Procedure(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": Procedure(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": Procedure(pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": Procedure(pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": Procedure(pb.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": Procedure(pb.RepositoryIndexRequest, repository.index, Blocking.BRIEFLY),
            "RepositoryModelLoad": Procedure(
                pb.RepositoryModelLoadRequest,
                repository.load,
                Blocking.LONG,
                is_short=False,
                permit=self._service.check_control,
            ),
            "RepositoryModelUnload": Procedure(
                pb.RepositoryModelUnloadRequest,
                repository.unload,
                Blocking.LONG,
                permit=self._service.check_control,
            ),
        }
        return {**served, **self._further}

    def _server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._service.is_ready())

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._service.is_model_ready(request.name, request.version))

    def _server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return describe.server_metadata([one.extension for one in self._further.values() if one.extension])

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = self._service.model(request.name, request.version)
        versions = [model.facts.version for model in self._service.models(request.name, "")]
        return describe.model_metadata(model.facts, versions)

    def _model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        model = self._service.model(request.name, request.version)
        return describe.model_config(model.facts)

    def _model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        return describe.model_statistics(self._service.models(request.name, request.version))
