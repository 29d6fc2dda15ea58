"""gRPC's own statistics of connections, as the channelz service tells them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz_pb2
from grpc_channelz.v1.channelz import ChannelzServicer

from headrace_server.transport.messages import parse
from headrace_server.transport.seam import Routes, Unary, UnaryCall
from headrace_server.transport.status import Status

SERVICE: Final = "grpc.channelz.v1.Channelz"


def routes() -> Routes:
    """Return what answers, by its path."""
    described = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].methods
    return {
        f"/{SERVICE}/{method.name}": Unary(
            functools.partial(
                _answer,
                getattr(channelz_pb2, method.input_type.name),
                getattr(ChannelzServicer, method.name),
            )
        )
        for method in described
    }


class _Context:
    """Takes what the package's servicer says of a question that it cannot answer."""

    code = grpc.StatusCode.INTERNAL
    text = ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, text: str) -> None:
        self.text = text


def _answer(
    request: type[Message], answer: Callable[[Any, _Context], Message | None], call: UnaryCall, message: bytes
) -> None:
    context = _Context()
    answered = answer(parse(request, message), context)
    if answered is None:
        call.fail(Status(context.code, context.text))
    else:
        call.answer(answered.SerializeToString())
