"""What a row of the suite is: steps that a server is put one after the other, and what is expected of each.

A row that Headrace answers differently from Triton on purpose names a `Difference`, and the page
docs/compatibility.md tells each of them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from oip.wire import PATIENCE_SECONDS, Metadata, Outcome, Wire

Code = grpc.StatusCode
Earlier = Sequence[Outcome]
"""What the steps before this one came to."""

Check = Callable[[Outcome, Earlier], None]
"""Raises AssertionError where an outcome is not as it should be."""


class Server(enum.Enum):
    """Which of the servers a row is put to."""

    OPEN = "models are loaded and unloaded on request, programs and shared memory are allowed"
    CLOSED = "as it starts without flags"
    FUZZED = "as open, with a model for each datatype that takes any shape"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that Headrace does otherwise than Triton, on purpose: a row of docs/compatibility.md.

    `code` is what Triton answers, where that is the difference; `gives` what stands in its answer.
    """

    what: str
    ours: str
    tritons: str
    why: str
    code: Code | None = None
    gives: Message | Check | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One exchange: how it is made, and what is expected of it.

    `says` is a pattern that our error text has; other servers have other words. `gives` is a message, each
    of whose fields that are set must stand in the answer, or a check.
    """

    send: Callable[[Wire, Earlier], Outcome]
    code: Code = Code.OK
    says: str = ""
    gives: Message | Check | None = None
    differs: Difference | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One row. `only_ours` says why it cannot be put to the Triton that the others are compared with."""

    name: str
    steps: tuple[Step, ...]
    server: Server = Server.OPEN
    only_ours: str = ""
    undo: tuple[Step, ...] = ()
    """Put afterwards, whatever came of the steps, so that the next row finds things as they were."""


def case(
    name: str,
    *steps: Step,
    server: Server = Server.OPEN,
    only_ours: str = "",
    undo: tuple[Step, ...] = (),
) -> Case:
    """Make a row."""
    return Case(name, steps, server, only_ours, undo)


def ask(
    method: str,
    request: Message | bytes,
    code: Code = Code.OK,
    says: str = "",
    *,
    gives: Message | Check | None = None,
    differs: Difference | None = None,
    metadata: Metadata = (),
    timeout_seconds: float = PATIENCE_SECONDS,
    compression: grpc.Compression | None = None,
) -> Step:
    """Make the step of one unary call."""

    def send(wire: Wire, _earlier: Earlier) -> Outcome:
        return wire.call(
            method, request, metadata=metadata, timeout_seconds=timeout_seconds, compression=compression
        )

    return Step(send, code, says, gives, differs)


def talk(
    *requests: Message | bytes,
    code: Code = Code.OK,
    says: str = "",
    gives: Check | None = None,
    differs: Difference | None = None,
    metadata: Metadata = (),
    method: str = "ModelStreamInfer",
    timeout_seconds: float = PATIENCE_SECONDS,
) -> Step:
    """Make the step of a stream that sends these requests, half closes and is read to its end."""

    def send(wire: Wire, _earlier: Earlier) -> Outcome:
        return wire.converse(method, requests, metadata=metadata, timeout_seconds=timeout_seconds)

    return Step(send, code, says, gives, differs)


def act(
    send: Callable[[Wire, Earlier], Outcome],
    *,
    code: Code = Code.OK,
    says: str = "",
    gives: Check | None = None,
    differs: Difference | None = None,
) -> Step:
    """Make a step that needs more than one call, or what an earlier step found."""
    return Step(send, code, says, gives, differs)


def put(step: Step, wire: Wire, earlier: Earlier, *, is_ours: bool) -> Outcome:
    """Take a step, and hold its outcome against what is expected of this server."""
    outcome = step.send(wire, earlier)
    code, gives = step.code, step.gives
    if step.differs is not None and not is_ours:
        code, gives = step.differs.code or step.code, step.differs.gives
    assert outcome.code is code, f"{outcome.code.name} came, {code.name} expected: {outcome.text}"
    if is_ours and step.says:
        assert re.search(step.says, outcome.text), f"{outcome.text!r} does not say {step.says!r}"
    if isinstance(gives, Message):
        contains(outcome.answer, gives)
    elif gives is not None:
        gives(outcome, earlier)
    return outcome


def contains(message: Message, part: Message) -> None:
    """Check that every field which is set in `part` stands so in the message."""
    for field, expected in part.ListFields():
        came = getattr(message, field.name)
        where = f"{message.DESCRIPTOR.name}.{field.name}"
        if field.message_type is None:
            assert came == expected, f"{where}: {came!r} came, {expected!r} expected"
        elif isinstance(expected, Mapping):
            assert expected.keys() <= came.keys(), (
                f"{where}: {sorted(came)} came, {sorted(expected)} expected"
            )
            for key, value in expected.items():
                contains(came[key], value) if isinstance(value, Message) else _same(where, came[key], value)
        elif isinstance(expected, Message):
            contains(came, expected)
        else:
            assert len(came) == len(expected), f"{where}: {came} came, {expected} expected"
            for one, other in zip(came, expected, strict=True):
                contains(one, other)


def _same(where: str, came: Any, expected: Any) -> None:
    assert came == expected, f"{where}: {came!r} came, {expected!r} expected"
