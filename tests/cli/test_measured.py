from __future__ import annotations

import io

import pytest
from rich.console import Console

from headrace_cli.measured import quality_table
from headrace_engines.gates import Quality
from headrace_engines.report import Comparison

_QUALITY = Quality("agreement", "colour", 200, 1.0, 0.1, 0.9, 0.85, 0.95, 0.01)
_COMPARISON = Comparison("int8-cpu", "cpu", False, "", 100, 30, _QUALITY, {}, ())


@pytest.mark.parametrize(("names_outputs", "told"), [(True, "agreement of colour"), (False, "agreement")])
def test_of_several_outputs_the_worst_is_named(names_outputs: bool, told: str) -> None:
    shown = io.StringIO()
    table = quality_table([_COMPARISON], names_outputs=names_outputs)
    Console(file=shown, width=200).print(table)
    assert told in shown.getvalue()
    assert ("colour" in shown.getvalue()) == names_outputs
