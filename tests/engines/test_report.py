from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace_engines import report
from headrace_engines.errors import ModelFileError
from headrace_engines.gates import Quality, Speed
from headrace_engines.report import Comparison, Layer, Report

_EXAMPLE = Report(
    comparisons=(
        Comparison(
            recipe="int8-cpu",
            target="cpu",
            passed=True,
            verdict="as good as FP32 and faster",
            reference_bytes=4000,
            candidate_bytes=1000,
            quality=Quality("accuracy", "probabilities", 719, 0.976, 0.975, 0.001, -0.004, 0.006, 0.01),
            likeness={"sqnr_db": 31.5},
            speeds=(Speed(1, 2e-5, 1e-5), Speed(8, 8e-5, 1e-5)),
            layers=(Layer("gemm_2", "Gemm", 12.5, True),),
        ),
        Comparison("fp8", "tensorrt", False, "its answers are not numbers", 4000, 1000, None, {}, ()),
    ),
    machine={"cores": "2"},
    seconds={"training": 2.5},
    conversion_error=1e-7,
    warnings=("no data",),
    reference=0.976,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(_EXAMPLE.to_bytes())
    assert report.read(tmp_path) == _EXAMPLE


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert report.read(tmp_path) is None


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda it: it.pop("machine"), "field 'machine' is missing"),
        (
            lambda it: it.update(seconds={"training": "long"}),
            "field 'seconds': expected an object of numbers",
        ),
        (
            lambda it: it["comparisons"][0]["quality"].update(high="much"),
            r"field 'comparisons\[0\]\.quality\.high'",
        ),
        (lambda it: it.update(warnings=[1]), "field 'warnings': expected a list of strings"),
        (lambda it: it["comparisons"][1].pop("quality"), r"field 'comparisons\[1\]\.quality' is missing"),
        (
            lambda it: it["comparisons"][0]["speeds"][1].update(rows=0),
            r"field 'comparisons\[0\]\.speeds\[1\]\.rows': expected a whole number, 1 or more",
        ),
        (
            lambda it: it["comparisons"][0]["speeds"][1].update(candidate_seconds=0.0),
            r"field 'comparisons\[0\]\.speeds\[1\]\.candidate_seconds': expected a number above 0",
        ),
    ],
)
def test_damage_is_refused_and_the_field_named(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    document = json.loads(_EXAMPLE.to_bytes())
    damage(document)
    (tmp_path / "report.json").write_text(json.dumps(document))
    with pytest.raises(ModelFileError, match=complaint):
        report.read(tmp_path)


def test_the_speed_ratio_is_over_all_sizes_of_batch() -> None:
    measured, unmeasured = _EXAMPLE.comparisons
    assert measured.speed_ratio == pytest.approx(4.0)
    assert unmeasured.speed_ratio is None
    assert _EXAMPLE.of("fp8") is unmeasured
    assert _EXAMPLE.of("fp16") is None


def test_the_machine_is_described() -> None:
    told = report.machine()
    assert set(told) == {"system", "processor", "cores", "instructions", "python"}
    assert all(value for name, value in told.items() if name != "instructions")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds nobody to processors")
def test_only_processors_that_may_be_used_count() -> None:
    may = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(may)})
        assert report.machine()["cores"] == "1"
    finally:
        os.sched_setaffinity(0, may)
    assert report.machine()["cores"] == str(len(may))


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ({"system": "Linux 9", "python": "3.99.0"}, True),
        ({"processor": "another"}, False),
        ({"cores": "1000"}, False),
        ({"instructions": "avx2"}, False),
    ],
)
def test_a_machine_is_another_where_speed_is(changed: dict[str, str], is_same: bool) -> None:
    here = {**report.machine(), "instructions": "avx2 avx512_vnni"}
    assert (report.machine_key({**here, **changed}) == report.machine_key(here)) == is_same
