from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from headrace_server.errors import InferenceError, InvalidInput, NotSupported
from headrace_server.telemetry import logs
from headrace_server.telemetry.log_settings import LogControl, Value

ALL = {
    "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
    "log_format": "default",
}  # fmt: skip

logger = logging.getLogger("headrace_server.test")


@pytest.fixture(autouse=True)
def root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def heard(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Log a line of each level and return those that were written."""
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(level, "one of level %d", level)
    return [line.rsplit(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ALL | {"log_verbose_level": 1}),
        ("info", ALL),
        ("warning", ALL | {"log_info": False}),
        ("error", ALL | {"log_info": False, "log_warning": False}),
    ],
)
def test_a_level_says_what_each_setting_is(level: str, expected: dict[str, Value]) -> None:
    assert LogControl(logs.set_up(level, "text")).settings() == expected


@pytest.mark.parametrize(
    ("level", "changes", "lines"),
    [
        ("info", {}, ["20", "30", "40", "50"]),
        ("info", {"log_verbose_level": 1}, ["10", "20", "30", "40", "50"]),
        ("info", {"log_verbose_level": 7, "log_info": False}, ["10", "30", "40", "50"]),
        ("error", {"log_info": True}, ["20", "40", "50"]),
        ("error", {"log_error": False}, []),
        ("debug", {"log_verbose_level": 0, "log_warning": False}, ["20", "40", "50"]),
    ],
)
def test_each_setting_admits_its_lines_from_the_next_one_on(
    level: str, changes: dict[str, Value], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    control = LogControl(logs.set_up(level, "text"))
    before = control.settings()
    control.change(changes)
    assert heard(capsys) == lines
    assert control.settings() == {**before, **changes}


def test_times_are_told_as_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    control = LogControl(logs.set_up("info", "text"))
    control.change({"log_format": "ISO8601"})
    logger.info("one")
    control.change({"log_format": "default"})
    logger.info("two")
    first, second = capsys.readouterr().err.splitlines()
    assert first[10] == "T"
    assert first[19] == "Z"
    assert second[2] == second[5] == ":"


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("log_file", "/tmp/x", NotSupported, "log_file cannot be changed: the server logs to its standard"),
        ("log_info", 1, InvalidInput, "log_info: 1 came, true or false (bool_param) is expected"),
        ("log_warning", "no", InvalidInput, "log_warning: 'no' came, true or false"),
        ("log_error", None, InvalidInput, "log_error: no value came, true or false"),
        ("log_verbose_level", True, InvalidInput, "log_verbose_level: True came, a whole number (uint32"),
        ("log_format", 1, InvalidInput, "log_format: 1 came, a text (string_param) is expected"),
        ("log_format", "json", InvalidInput, "log_format: 'json' came, one of default, ISO8601 is expected"),
        ("log_warnings", True, InvalidInput, "no log setting 'log_warnings' (did you mean 'log_warning'?)"),
        ("", True, InvalidInput, "no log setting ''; there are: log_file, log_info, log_warning"),
        ("x" * 100_000, True, InvalidInput, "there is no log setting 'xxx"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_has_changed(
    name: str, value: Value | None, error: type[InferenceError], text: str
) -> None:
    control = LogControl(logs.set_up("info", "text"))
    with pytest.raises(error) as refused:
        control.change({"log_verbose_level": 3, name: value})
    assert text in str(refused.value)
    assert len(str(refused.value)) < 500
    assert control.settings() == ALL


def test_json_lines_keep_their_times() -> None:
    control = LogControl(logs.set_up("info", "json"))
    assert control.settings()["log_format"] == "ISO8601"
    control.change({"log_format": "ISO8601"})
    with pytest.raises(InvalidInput, match="the server logs JSON lines"):
        control.change({"log_format": "default"})
