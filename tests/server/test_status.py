from __future__ import annotations

import logging
import urllib.parse
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from headrace_server import errors
from headrace_server.errors import InferenceError
from headrace_server.transport.status import status_of

Code = grpc.StatusCode
TABLE = [
    (errors.InvalidInput("text"), Code.INVALID_ARGUMENT),
    (errors.MessageTooLarge("text"), Code.RESOURCE_EXHAUSTED),
    (errors.ModelNotFound("text"), Code.NOT_FOUND),
    (errors.ModelNotReady("text"), Code.UNAVAILABLE),
    (errors.RegionNotFound("text"), Code.NOT_FOUND),
    (errors.RegionExists("text"), Code.ALREADY_EXISTS),
    (errors.Overloaded("text", 0.25), Code.RESOURCE_EXHAUSTED),
    (errors.DeadlineMissed("text"), Code.DEADLINE_EXCEEDED),
    (errors.EngineFailed("text", "0badcafe"), Code.INTERNAL),
    (errors.DeviceLost("text"), Code.UNAVAILABLE),
    (errors.ShuttingDown("text"), Code.UNAVAILABLE),
    (errors.ControlDisabled("text"), Code.FAILED_PRECONDITION),
    (errors.NotSupported("text"), Code.UNIMPLEMENTED),
]


@pytest.mark.parametrize(("error", "code"), TABLE, ids=[type(error).__name__ for error, _ in TABLE])
def test_each_error_has_its_code_and_its_text_leaves(error: InferenceError, code: grpc.StatusCode) -> None:
    status = status_of(error)
    assert status.code is code
    assert status.text.startswith("text")


def test_every_error_of_the_domain_is_in_the_table() -> None:
    assert {type(error) for error, _ in TABLE} == set(InferenceError.__subclasses__())


@pytest.mark.parametrize("code", sorted({code.name for _, code in TABLE}))
def test_each_code_is_told_in_the_documentation(code: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "errors.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert any(code in row.split("|")[2] for row in rows)


def test_an_engines_failure_tells_the_id_that_the_log_has() -> None:
    assert "0badcafe" in status_of(errors.EngineFailed("text", "0badcafe")).text


@pytest.mark.parametrize("seconds", [0.001, 0.25, 90.0])
def test_an_overload_tells_when_to_come_back_in_grpcs_own_details(seconds: float) -> None:
    status = status_of(errors.Overloaded("full", seconds))
    ((key, value),) = status.trailers()
    assert key == "grpc-status-details-bin"
    assert isinstance(value, bytes)
    details = status_pb2.Status.FromString(value)
    assert (details.code, details.message) == (Code.RESOURCE_EXHAUSTED.value[0], "full")
    info = error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(info)
    assert info.retry_delay.ToNanoseconds() == pytest.approx(seconds * 1e9)


def test_a_model_that_is_not_ready_is_told_apart_from_a_server_that_is_not() -> None:
    ((_, value),) = status_of(errors.ModelNotReady("loading")).trailers()
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(value).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("MODEL_NOT_READY", "headrace")
    assert status_of(errors.ShuttingDown("bye")).trailers() == ()


def test_other_errors_have_no_trailers() -> None:
    with_details = (errors.Overloaded, errors.ModelNotReady)
    assert not any(status_of(error).trailers() for error, _ in TABLE if not isinstance(error, with_details))


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), KeyError("secret"), InferenceError("secret"), TimeoutError()], ids=repr
)
def test_of_an_unknown_error_only_an_id_leaves_and_the_log_has_the_rest(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status = status_of(error)
    assert status.code is Code.INTERNAL
    assert "secret" not in status.text
    error_id = status.text.split()[-1]
    (record,) = caplog.records
    assert error_id in record.getMessage()
    assert record.exc_info
    assert record.exc_info[1] is error


def test_a_text_that_quotes_a_long_name_is_cut_to_what_metadata_can_carry() -> None:
    status = status_of(errors.ModelNotFound("there is no model " + "😀" * 1_000_000))
    assert status.text.startswith("there is no model 😀")
    assert status.text.endswith("…")
    assert len(urllib.parse.quote(status.text)) < 8_000


def test_two_unknown_errors_have_different_ids() -> None:
    assert status_of(RuntimeError()).text != status_of(RuntimeError()).text
