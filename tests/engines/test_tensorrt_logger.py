"""What a library says is told by the exception of the call, or by the log."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import library

from headrace_engines.runtime.tensorrt.logger import collected, is_of_memory, logger_of


@pytest.fixture
def logger(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.DEBUG)
    return logger_of(library(FakeDriver()).module())


def test_there_is_one_for_each_library() -> None:
    one, other = library(FakeDriver()).module(), library(FakeDriver()).module()
    assert logger_of(one) is logger_of(one)
    assert logger_of(one) is not logger_of(other)


def test_levels_are_those_of_the_log(logger: Any, caplog: pytest.LogCaptureFixture) -> None:
    for severity in logger.Severity:
        logger.log(severity, severity.name)
    assert {record.message: record.levelname for record in caplog.records} == {
        "INTERNAL_ERROR": "ERROR", "ERROR": "ERROR", "WARNING": "WARNING", "INFO": "DEBUG",
        "VERBOSE": "DEBUG",
    }  # fmt: skip


def test_errors_are_collected_by_whoever_tells_them(logger: Any, caplog: pytest.LogCaptureFixture) -> None:
    error = logger.Severity.ERROR
    with collected() as outer:
        logger.log(error, "one")
        with collected() as inner:
            logger.log(error, "two")
        logger.log(error, "three")
        thread = threading.Thread(target=logger.log, args=(error, "of the library's own thread"))
        thread.start()
        thread.join()
    assert inner == ["two"]
    assert outer == ["one", "three", "of the library's own thread"]
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    logger.log(error, "nobody tells it")
    assert caplog.records[-1].levelname == "ERROR"


def test_another_threads_call_has_its_own_errors(logger: Any) -> None:
    said: list[str] = []

    def fail() -> None:
        with collected() as own:
            logger.log(logger.Severity.ERROR, "its")
        said.extend(own)

    with collected() as mine:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert (mine, said) == ([], ["its"])


@pytest.mark.parametrize(
    ("line", "tells"),
    [
        ("Error Code 1: Cuda Runtime (out of memory)", True),
        ("CUDA_ERROR_OUT_OF_MEMORY", True),
        ("Error Code 2: OutOfMemory (Requested size was 1 bytes.)", True),
        ("INSUFFICIENT memory for the device", True),
        ("bad shared memory size", False),
    ],
)
def test_memory_that_does_not_suffice_is_recognised(line: str, tells: bool) -> None:
    assert is_of_memory(["something", line]) is tells
