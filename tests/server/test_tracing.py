"""Tracing of requests to models that execute, and the settings that say which of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_engines import ScriptedEngine, Served, serving

from headrace_server.errors import InvalidInput, ModelNotFound
from headrace_server.telemetry.trace_file import TraceFileError, TraceWriter
from headrace_server.telemetry.trace_settings import TraceSettings
from headrace_server.telemetry.tracing import Tracing

PATIENCE_SECONDS = 20.0
ON = {"trace_level": ["TIMESTAMPS"]}
MOMENTS = (
    "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START",
    "COMPUTE_END", "REQUEST_END",
)  # fmt: skip


class Traced:
    """A model that is served, its tracing, and the file that its traces are in once the block has ended."""

    def __init__(self, served: Served, tracing: Tracing, file: Path) -> None:
        self.served = served
        self.tracing = tracing
        self._file = file
        self._count = 0

    def ask(self, times: int) -> None:
        """Ask so many times, each alone, by the keys 0, 1, 2, …"""
        for _ in range(times):
            self.served.infer(self._count, 1)
            self.served.answers.wait_for(self._count)
            self._count += 1

    def ids(self) -> list[int]:
        """Return the keys of the requests that were traced."""
        return [int(one["request_id"]) for one in self.members() if "request_id" in one]

    def members(self) -> list[dict[str, Any]]:
        """Return what the file holds."""
        held: list[dict[str, Any]] = json.loads(self._file.read_text())
        return held


@contextmanager
def traced(tmp_path: Path, **defaults: Any) -> Iterator[Traced]:
    file = tmp_path / "trace.json"
    with serving(ScriptedEngine()) as served:
        tracing = Tracing(served.shelf, TraceSettings(**defaults), TraceWriter(file))
        tracing.start()
        yield Traced(served, tracing, file)
        tracing.close(PATIENCE_SECONDS)


def in_force(tracing: Tracing, model: str = "") -> Mapping[str, str]:
    settings = tracing.settings(model)
    assert all(len(texts) == 1 for texts in settings.values())
    return {name: texts[0] for name, texts in settings.items()}


@pytest.mark.parametrize(
    ("changes", "asked", "ids"),
    [
        ({"trace_rate": ["1"]}, 3, [0, 1, 2]),
        ({"trace_rate": ["2"]}, 5, [1, 3]),
        ({"trace_rate": ["3"], "trace_count": ["2"]}, 12, [2, 5]),
        ({"trace_rate": ["1"], "trace_count": ["0"]}, 3, []),
        ({"trace_rate": ["4294967295"]}, 3, []),
    ],
)
def test_every_so_many_th_request_is_traced_until_there_are_enough(
    tmp_path: Path, changes: dict[str, Sequence[str]], asked: int, ids: list[int]
) -> None:
    with traced(tmp_path) as one:
        one.tracing.change("", ON | changes)
        one.ask(asked)
    assert one.ids() == ids


def test_requests_count_one_by_one_where_they_share_a_batch(tmp_path: Path) -> None:
    with traced(tmp_path, trace_level="TIMESTAMPS", trace_rate=3) as one:
        for key in range(50):
            one.served.infer(key, key)
        one.served.answers.wait_for(*range(50))
    assert len(one.ids()) == 50 // 3
    assert len(set(one.ids())) == 50 // 3


def test_what_is_traced_adds_up_to_the_statistics(tmp_path: Path) -> None:
    with traced(tmp_path, trace_level="TIMESTAMPS", trace_rate=1) as one:
        one.ask(20)
        statistics = one.served.model.snapshot()
    moments = [{at["name"]: at["ns"] for at in each["timestamps"]} for each in one.members()[1::2]]
    assert all(tuple(each) == MOMENTS for each in moments)
    assert all(list(each.values()) == sorted(each.values()) for each in moments)

    def took(begin: str, end: str) -> int:
        return sum(each[end] - each[begin] for each in moments)

    assert took("REQUEST_START", "REQUEST_END") == statistics.success.ns
    assert took("QUEUE_START", "COMPUTE_START") == statistics.queue.ns
    assert took("COMPUTE_START", "COMPUTE_INPUT_END") == statistics.compute_input.ns
    assert took("COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START") == statistics.compute_infer.ns
    assert took("COMPUTE_OUTPUT_START", "COMPUTE_END") == statistics.compute_output.ns
    whose = one.members()[::2]
    assert [(each["model_name"], each["model_version"]) for each in whose] == [("m", 1)] * 20
    assert [each["id"] for each in whose] == [each["id"] for each in one.members()[1::2]]


def test_two_runs_that_write_to_one_file_have_traces_of_their_own(tmp_path: Path) -> None:
    for _ in range(2):
        with traced(tmp_path, trace_level="TIMESTAMPS", trace_rate=1) as one:
            one.ask(3)
    assert one.ids() == [0, 1, 2, 0, 1, 2]
    assert len({each["id"] for each in one.members()}) == 6


def test_of_an_id_as_much_is_traced_as_tells_it_from_others(tmp_path: Path) -> None:
    with traced(tmp_path, trace_level="TIMESTAMPS", trace_rate=1) as one:
        for key in ("\x01" * 1024, "\x01" * 1_000_000):
            one.served.infer(key, 1)
            one.served.answers.wait_for(key)
    assert [each["request_id"] for each in one.members()[::2]] == ["\x01" * 1024] * 2


def test_nothing_is_called_while_nothing_is_traced(tmp_path: Path) -> None:
    with traced(tmp_path) as one:
        model = one.served.model
        assert model.tracer is None
        one.tracing.change("m", ON)
        assert model.tracer is not None
        one.tracing.change("m", {"trace_count": ["0"]})
        assert model.tracer is None
        one.tracing.change("m", {"trace_count": []})
        assert model.tracer is not None
        one.tracing.change("m", {"trace_level": ["OFF"]})
        assert model.tracer is None
        one.ask(3)
    assert one.members() == []


def test_settings_of_a_model_go_before_the_server_s_and_are_cleared_one_by_one(tmp_path: Path) -> None:
    with traced(tmp_path, trace_rate=7) as one:
        tracing = one.tracing
        expected = {
            "trace_level": "OFF", "trace_rate": "7", "trace_count": "-1", "log_frequency": "0",
            "trace_file": str(tmp_path / "trace.json"), "trace_mode": "triton",
        }  # fmt: skip
        assert in_force(tracing) == in_force(tracing, "m") == expected
        tracing.change("m", {"trace_rate": ["3"]})
        tracing.change("", {"trace_rate": ["5"], "log_frequency": ["10"]})
        assert in_force(tracing) == expected | {"trace_rate": "5", "log_frequency": "10"}
        assert in_force(tracing, "m") == expected | {"trace_rate": "3", "log_frequency": "10"}
        tracing.change("m", {"trace_rate": []})
        assert in_force(tracing, "m") == in_force(tracing) == expected | {
            "trace_rate": "5", "log_frequency": "10",
        }  # fmt: skip
        tracing.change("", {"trace_rate": [], "log_frequency": [], "trace_count": []})
        assert in_force(tracing, "m") == in_force(tracing) == expected


def test_the_count_told_is_what_is_left_and_outlasts_other_changes(tmp_path: Path) -> None:
    with traced(tmp_path, trace_level="TIMESTAMPS", trace_rate=1) as one:
        one.tracing.change("", {"trace_count": ["5"]})
        one.ask(2)
        assert in_force(one.tracing)["trace_count"] == "3"
        one.tracing.change("", {"log_frequency": ["2"]})
        one.tracing.change("m", {"trace_rate": ["1"]})
        assert in_force(one.tracing, "m")["trace_count"] == "3"
        one.ask(9)
        assert in_force(one.tracing, "m")["trace_count"] == "0"
        assert in_force(one.tracing)["trace_count"] == "3"
    assert one.ids() == [0, 1]
    series = [json.loads((tmp_path / f"trace.json.{number}").read_text()) for number in range(2)]
    assert [len(each) / 2 for each in series] == [2, 1]


def test_a_change_that_is_wrong_in_part_changes_nothing(tmp_path: Path) -> None:
    with traced(tmp_path) as one:
        before = in_force(one.tracing)
        with pytest.raises(InvalidInput, match="trace_rate: '0' came"):
            one.tracing.change("", {"trace_count": ["5"], "trace_rate": ["0"]})
        assert in_force(one.tracing) == before


def test_the_settings_of_a_model_go_with_it(tmp_path: Path) -> None:
    with traced(tmp_path, trace_rate=5) as one:
        one.tracing.change("", {"log_frequency": ["9"]})
        one.tracing.change("m", {"trace_rate": ["7"]})
        one.tracing.attach()
        assert in_force(one.tracing, "m")["trace_rate"] == "7", "the model is there"
        model = one.served.shelf.remove("m")
        one.tracing.attach()
        one.served.shelf.put(model)
        one.tracing.attach()
        told = in_force(one.tracing, "m")
        assert (told["trace_rate"], told["log_frequency"]) == ("5", "9"), "another one of this name"


@pytest.mark.parametrize("values", [{}, {"trace_rate": ["2"]}])
def test_a_model_that_is_unknown_is_named(tmp_path: Path, values: dict[str, Sequence[str]]) -> None:
    with traced(tmp_path) as one:
        with pytest.raises(ModelNotFound, match="there is no model 'x'"):
            one.tracing.change("x", values)
        with pytest.raises(ModelNotFound, match="there is no model 'x'"):
            one.tracing.settings("x")


def test_without_a_file_nothing_can_be_traced() -> None:
    with serving(ScriptedEngine()) as served:
        tracing = Tracing(served.shelf, TraceSettings(), None)
        tracing.start()
        with pytest.raises(InvalidInput, match="the server was started without --trace-file"):
            tracing.change("m", ON)
        tracing.change("m", {"trace_rate": ["9"], "trace_level": ["OFF"]})
        assert in_force(tracing, "m")["trace_rate"] == "9"
        assert in_force(tracing)["trace_file"] == ""
        tracing.close(PATIENCE_SECONDS)
        with pytest.raises(TraceFileError, match="--trace-level TIMESTAMPS needs --trace-file"):
            Tracing(served.shelf, TraceSettings(trace_level="TIMESTAMPS"), None).start()
