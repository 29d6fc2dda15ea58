"""What is looked at before grpcio's core is driven directly."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc

from headrace import core_support

TRIED = "1.85.1"


def changed(**members: Any) -> Any:
    """grpcio with some members of its core replaced."""
    core = ModuleType("cygrpc")
    core.__dict__.update(vars(cygrpc), **members)
    return SimpleNamespace(_cython=SimpleNamespace(cygrpc=core), _channel=grpc._channel)


def test_what_is_used_of_the_installed_one_is_as_expected() -> None:
    """Whatever its version: this fails first when a new grpcio changes what streams are made of."""
    assert core_support.why_not(TRIED) is None


def test_the_installed_one_is_trusted_only_if_it_was_tried() -> None:
    assert (core_support.why_not() is None) is grpc.__version__.startswith("1.85.")


def test_one_that_was_not_tried_is_told() -> None:
    assert core_support.why_not("1.84.0") == "grpcio 1.84.0 is installed, it was tried with 1.85"


@pytest.mark.parametrize("name", ["IntegratedCall", "SendMessageOperation", "OperationType"])
def test_a_name_that_is_gone_is_told(name: str) -> None:
    reason = core_support.why_not(TRIED, changed(**{name: None}))
    assert reason is not None
    assert reason.startswith(f"grpcio {TRIED} has no _cython.cygrpc.{name}.") or reason.endswith(name)


def test_a_signature_that_has_changed_is_told_without_a_call() -> None:
    class IntegratedCall:
        def operate(self, operations: Any, tag: Any, flags: int) -> None:
            raise AssertionError("called")

    reason = core_support.why_not(TRIED, changed(IntegratedCall=IntegratedCall))
    assert reason == (
        f"grpcio {TRIED} has _cython.cygrpc.IntegratedCall.operate(self, operations, tag, flags), "
        "(self, operations, tag) was expected"
    )
