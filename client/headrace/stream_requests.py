"""What a caller's iterator gives to a stream, and the messages that are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from headrace.errors import InvalidInput
from headrace.exchange import TIMEOUT_PARAMETER
from headrace.messages import Outputs, Parameters, encode_request
from headrace.sequences import check_sequence
from headrace_proto.v1.inference_pb2 import ModelInferRequest


@dataclass(frozen=True, slots=True)
class Request:
    """A stream's request with parameters of its own, which come before those of the whole stream."""

    inputs: Mapping[str, NDArray[Any]]
    parameters: Parameters = field(default_factory=dict)


Given = Mapping[str, NDArray[Any]] | Request
"""What is asked under one key: the inputs alone, or more than them."""


def pair_of(item: object) -> tuple[Any, Any]:
    """Return the key and inputs in what a caller's iterator gave; TypeError if that is something else."""
    if isinstance(item, tuple) and len(item) == 2:
        return item
    raise TypeError(f"a stream's requests: {type(item).__name__} came, pairs of a key and a mapping expected")


@dataclass(frozen=True, slots=True)
class Encoder:
    """Makes the messages of one stream; `one_server` says that it has no choice of servers."""

    model: str
    version: str
    outputs: Outputs | None
    parameters: Parameters
    one_server: bool

    def encode(self, given: Given) -> ModelInferRequest:
        """Return the message that asks for this; InvalidInput for what cannot be sent."""
        if isinstance(given, Request):
            inputs = given.inputs
            parameters: Parameters = {**self.parameters, **given.parameters}
        else:
            inputs, parameters = given, self.parameters
        request = encode_request(self.model, inputs, self.version, self.outputs, parameters)
        if TIMEOUT_PARAMETER in request.parameters:
            raise InvalidInput(f"parameter {TIMEOUT_PARAMETER!r}: a stream sets it; give it timeout_seconds")
        check_sequence(request, one_server=self.one_server)
        return request
