"""What this transport looks at before it serves with a grpcio."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc

from headrace_server.transport.completion_queue import support

TRIED = "1.85.1"


def changed(**members: Any) -> ModuleType:
    """grpcio's module with some members replaced, or left out where they are None."""
    module = ModuleType("cygrpc")
    module.__dict__.update(vars(cygrpc))
    for name, member in members.items():
        if member is None:
            del module.__dict__[name]
        else:
            setattr(module, name, member)
    return module


def test_what_is_used_of_the_installed_one_is_as_expected() -> None:
    """Whatever its version: this fails first when a new grpcio changes what the transport is made of."""
    assert support.why_not(TRIED) is None


def test_the_installed_one_is_trusted_only_if_it_was_tried() -> None:
    assert (support.why_not() is None) is grpc.__version__.startswith("1.85.")


@pytest.mark.parametrize("version", ["1.76.0", "1.84.9", "1.86.0", "2.85.0", "1.8.5", "nightly"])
def test_one_that_was_not_tried_is_told(version: str) -> None:
    reason = support.why_not(version)
    assert reason == f"grpcio {version} is installed, it was tried with 1.85"


@pytest.mark.parametrize(
    "name", ["CompletionQueue", "Server", "Call", "SendStatusFromServerOperation", "auth_context"]
)
def test_a_name_that_is_gone_is_told(name: str) -> None:
    reason = support.why_not(TRIED, changed(**{name: None}))
    assert reason is not None
    assert reason.startswith(f"grpcio {TRIED} has no {name}")


def test_a_signature_that_has_changed_is_told_without_a_call() -> None:
    class Server:
        def register_completion_queue(self, queue: Any) -> None: ...
        def add_http2_port(self, address: bytes, credentials: Any = None) -> int:
            raise AssertionError("called")

    reason = support.why_not(TRIED, changed(Server=Server))
    assert reason == (
        "grpcio 1.85.1 has Server.add_http2_port(self, address, credentials), "
        "(self, address, server_credentials) was expected"
    )


def test_what_has_no_signature_is_not_trusted() -> None:
    reason = support.why_not(TRIED, changed(auth_context=dict.fromkeys))
    assert reason is not None
    assert "auth_context" in reason
