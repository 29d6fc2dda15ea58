from __future__ import annotations

import pytest

from headrace_server.errors import InferenceError, InvalidInput, NotSupported
from headrace_server.telemetry.trace_settings import Change, TraceSettings, parse


@pytest.mark.parametrize(
    ("name", "texts", "value"),
    [
        ("trace_level", ["OFF"], "OFF"),
        ("trace_level", ["TIMESTAMPS"], "TIMESTAMPS"),
        ("trace_level", ["TIMESTAMPS", "TIMESTAMPS"], "TIMESTAMPS"),
        ("trace_level", [], None),
        ("trace_rate", ["1"], 1),
        ("trace_rate", ["4294967295"], 4294967295),
        ("trace_rate", [], None),
        ("trace_count", ["-1"], -1),
        ("trace_count", ["0"], 0),
        ("trace_count", [], None),
        ("log_frequency", ["0"], 0),
        ("log_frequency", [], None),
    ],
)
def test_texts_become_values_and_no_text_clears(name: str, texts: list[str], value: Change) -> None:
    assert parse({name: texts}) == {name: value}


@pytest.mark.parametrize("texts", [["triton"], []])
def test_the_only_mode_changes_nothing(texts: list[str]) -> None:
    assert parse({"trace_mode": texts}) == {}


@pytest.mark.parametrize(
    ("name", "texts", "error", "text"),
    [
        ("trace_file", ["/tmp/x"], NotSupported, "trace_file cannot be changed while the server runs"),
        ("trace_file", [], NotSupported, "trace_file cannot be changed"),
        ("trace_mode", ["opentelemetry"], NotSupported, "trace_mode: opentelemetry came, triton is the only"),
        ("trace_level", ["TENSORS"], NotSupported, "tracing of tensors (TENSORS) is not supported"),
        ("trace_level", ["TIMESTAMPS", "TENSORS"], NotSupported, "TENSORS"),
        ("trace_level", ["MAX"], InvalidInput, "trace_level: 'MAX' came, OFF or TIMESTAMPS is expected"),
        ("trace_level", ["OFF", "TIMESTAMPS"], InvalidInput, "OFF, TIMESTAMPS came, OFF is expected alone"),
        ("trace_rate", ["0"], InvalidInput, "trace_rate: '0' came, one whole number from 1 to 4294967295 is"),
        ("trace_rate", ["-1"], InvalidInput, "trace_rate: '-1' came"),
        ("trace_rate", ["1x"], InvalidInput, "trace_rate: '1x' came"),
        ("trace_rate", ["1", "2"], InvalidInput, "trace_rate: '1', '2' came, one whole number"),
        ("trace_rate", ["4294967296"], InvalidInput, "trace_rate: '4294967296' came"),
        ("trace_rate", ["١"], InvalidInput, "trace_rate: '١' came"),
        ("trace_count", ["-2"], InvalidInput, "trace_count: '-2' came, one whole number from -1 to"),
        ("log_frequency", [""], InvalidInput, "log_frequency: '' came, one whole number from 0"),
        ("trace_rat", ["1"], InvalidInput, "no trace setting 'trace_rat' (did you mean 'trace_rate'?)"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    name: str, texts: list[str], error: type[InferenceError], text: str
) -> None:
    with pytest.raises(error) as refused:
        parse({"trace_count": ["5"], name: texts})
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "is_on"),
    [
        (TraceSettings(), False),
        (TraceSettings(trace_level="TIMESTAMPS"), True),
        (TraceSettings(trace_level="TIMESTAMPS", trace_count=1), True),
        (TraceSettings(trace_level="TIMESTAMPS", trace_count=0), False),
        (TraceSettings(trace_count=1), False),
    ],
)
def test_nothing_is_traced_without_a_level_or_a_trace_left(settings: TraceSettings, is_on: bool) -> None:
    assert settings.is_on is is_on
