from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.parser import text_string_to_metric_families

from headrace_server.telemetry.exposition import render


def metric(kind: str, *samples: tuple[str, dict[str, str], float]) -> Metric:
    made = Metric("m", "What it is\nover two lines, with a \\", kind)
    for name, labels, value in samples:
        made.add_sample(name, labels, value)
    return made


def test_names_are_what_they_were_given_as() -> None:
    counter = metric("counter", ("m", {"model": "a", "version": "1"}, 3), ("m", {}, 0.5))
    assert render([counter]).decode() == (
        "# HELP m What it is\\nover two lines, with a \\\\\n"
        "# TYPE m counter\n"
        'm{model="a",version="1"} 3\n'
        "m 0.5\n"
    )


def test_the_library_s_own_counters_keep_their_names() -> None:
    registry = CollectorRegistry()
    Counter("seen", "How many", registry=registry).inc()
    page = render(registry.collect()).decode()
    assert "# TYPE seen_total counter\nseen_total 1.0\n" in page


def test_a_metric_without_samples_is_left_out() -> None:
    assert render([metric("gauge"), metric("gauge", ("m", {}, math.inf))]).endswith(b"\nm +Inf\n")
    assert render([metric("gauge")]) == b""


@given(
    st.dictionaries(st.from_regex(r"_?[a-z][a-z0-9_]{0,5}", fullmatch=True), st.text(), max_size=3),
    st.floats(allow_nan=False) | st.integers(0, 2**63),
)
def test_a_parser_reads_back_every_label_and_value(labels: dict[str, str], value: float) -> None:
    (family,) = text_string_to_metric_families(render([metric("gauge", ("m", labels, value))]).decode())
    (sample,) = family.samples
    assert sample.labels == labels
    assert float(sample.value) == float(value)
