"""What a caller's iterator gives to a stream, and the messages that are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from numpy.typing import NDArray

from headrace.errors import InvalidInput
from headrace.requests import Outputs, Parameters, RequestEncoder, encode_own
from headrace.sequences import check_sequence

TIMEOUT_PARAMETER: Final = "timeout"
"""The protocol's request parameter for how long a request may take, in microseconds."""

TELL_END_PARAMETER: Final = "triton_enable_empty_final_response"
"""By which a stream's request asks for an answer without outputs where no other could say so."""

_MOST_MICROSECONDS: Final = 2**63 - 1


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


@dataclass(slots=True, eq=False)
class Encoded:
    """One request of a stream as it is sent."""

    id: str
    message: bytes
    is_of_a_sequence: bool = False

    def with_timeout(self, seconds: float) -> bytes:
        """Return the message with another time to take, which copies it: the last one said counts."""
        return self.message + _timeout(seconds)


def _timeout(seconds: float) -> bytes:
    microseconds = min(max(int(seconds * 1e6), 1), _MOST_MICROSECONDS)
    return encode_own({TIMEOUT_PARAMETER: microseconds})


class Encoder:
    """Makes the messages of one stream; `one_server` says that it has no choice of servers.

    The ids are the stream's own, so that callers may use any key, even twice.
    """

    def __init__(
        self,
        requests: RequestEncoder,
        model: str,
        version: str = "",
        outputs: Outputs | None = None,
        parameters: Parameters | None = None,
        *,
        timeout_seconds: float | None = None,
        one_server: bool = True,
    ) -> None:
        self._requests = requests
        self._model = model
        self._version = version
        self._outputs = outputs
        self._parameters = parameters or {}
        self._one_server = one_server
        self._numbers = count()
        self._timeout = b"" if timeout_seconds is None else _timeout(timeout_seconds)
        self._common: tuple[bytes, bool] | None = None

    def encode(self, given: Given) -> Encoded:
        """Return the message that asks for this; InvalidInput for what cannot be sent."""
        if isinstance(given, Request):
            inputs = given.inputs
            fields, is_of_a_sequence = self._said({**self._parameters, **given.parameters})
        else:
            inputs = given
            if self._common is None:
                self._common = self._said(self._parameters)
            fields, is_of_a_sequence = self._common
        number = str(next(self._numbers))
        own = b"\x1a%c%b%b%b" % (len(number), number.encode(), fields, self._timeout)
        message = self._requests.encode(self._model, inputs, self._version, self._outputs, own)
        return Encoded(number, message, is_of_a_sequence)

    def _said(self, parameters: Parameters) -> tuple[bytes, bool]:
        """Return the parameters as they are sent, and whether they are those of a sequence."""
        if TIMEOUT_PARAMETER in parameters:
            raise InvalidInput(f"parameter {TIMEOUT_PARAMETER!r}: a stream sets it; give it timeout_seconds")
        fields = encode_own({**parameters, TELL_END_PARAMETER: True})
        return fields, check_sequence(parameters, one_server=self._one_server)
