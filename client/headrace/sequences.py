"""Requests of a sequence: the server keeps state between them, so they differ from all others.

One must not be executed twice, and all must reach the server that has the state. So none is sent again,
and a client that chooses among servers refuses them.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

from headrace.errors import InvalidInput
from headrace_proto.v1.inference_pb2 import ModelInferRequest

SEQUENCE_PARAMETER: Final = "sequence_id"
"""The protocol's request parameter that says which sequence a request belongs to; 0 and "": none."""


def is_of_a_sequence(request: ModelInferRequest) -> bool:
    """Say whether a request belongs to a sequence."""
    given = request.parameters.get(SEQUENCE_PARAMETER)
    return given is not None and bool(given.int64_param or given.uint64_param or given.string_param)


def may_repeat(request: Message) -> bool:
    """Say whether a call with this request may be made a second time, when the first one failed."""
    return not (isinstance(request, ModelInferRequest) and is_of_a_sequence(request))


def check_sequence(request: ModelInferRequest, *, one_server: bool) -> None:
    """Raise InvalidInput for a request of a sequence where `one_server` says that there is a choice."""
    if not one_server and is_of_a_sequence(request):
        raise InvalidInput(
            f"parameter {SEQUENCE_PARAMETER!r}: this client chooses a server for each request, and a "
            'sequence has to stay on one: use a client of that server alone, such as Client("host:port")'
        )
