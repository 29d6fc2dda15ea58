from __future__ import annotations

import pytest

from headrace_engines.errors import ExecutionError, InputError
from headrace_server.core.failures import report, report_execution, told


def test_a_text_that_is_meant_for_callers_is_told_and_logged_without_a_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = report_execution("m", ExecutionError("row 3 is not finite"))
    assert str(failed) == f"model 'm': row 3 is not finite (error {failed.error_id})"
    (record,) = caplog.records
    assert failed.error_id in record.getMessage()
    assert record.exc_info is None


def test_any_other_text_stays_in_the_log_under_the_id_that_callers_get(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = report_execution("m", RuntimeError("/secret/path"))
    assert str(failed) == f"model 'm': the engine failed (error {failed.error_id})"
    assert "/secret/path" in caplog.text
    assert failed.error_id in caplog.text


def test_each_failure_has_an_id_of_its_own() -> None:
    ids = {report("m", "what", ValueError()).error_id for _ in range(100)}
    assert len(ids) == 100


def test_an_error_without_a_text_is_told_by_its_kind() -> None:
    assert told(InputError()) == "the program raised InputError without a text"
    assert told(InputError("x is odd")) == "x is odd"


def test_an_error_whose_text_fails_is_told_by_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    class OwnError(InputError):
        def __str__(self) -> str:
            raise IndexError("no text")

    assert told(OwnError()) == "the program raised OwnError without a text"
    assert "IndexError: no text" in caplog.text
