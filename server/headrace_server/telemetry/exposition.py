"""Prometheus' text format, with every name exactly as it is given.

The library's own writer ends the names of counters in `_total`; Triton's have no such ending, and what was
built on them asks for them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from prometheus_client import Metric
from prometheus_client.samples import Sample

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def render(metrics: Iterable[Metric]) -> bytes:
    """Return the page that a scrape gets. A metric without samples is left out."""
    return "".join(map(_family, metrics)).encode()


def _family(metric: Metric) -> str:
    if not metric.samples:
        return ""
    # The library keeps a counter's name without the ending that its samples have.
    name = metric.samples[0].name if metric.type == "counter" else metric.name
    text = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}\n# TYPE {name} {metric.type}\n" + "".join(map(_line, metric.samples))


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in sample.labels.items())
    return f"{sample.name}{f'{{{labels}}}' if labels else ''} {number(sample.value)}\n"


def number(value: float) -> str:
    """Return a number as the format has it, for a value or a histogram's bound."""
    return "+Inf" if value == math.inf else str(value)
