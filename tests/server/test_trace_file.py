from __future__ import annotations

import functools
import json
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosted_server import eventually

from headrace_server.telemetry.trace_file import JsonArrayFile, Trace, TraceFileError, TraceWriter

PATIENCE_SECONDS = 20.0


def trace(number: int, request_id: str = "") -> Trace:
    return Trace(number, "m", "3", request_id, (("REQUEST_START", number), ("REQUEST_END", number + 5)))


def members(path: Path) -> list[dict[str, Any]]:
    held: list[dict[str, Any]] = json.loads(path.read_text())
    return held


def numbers(path: Path) -> list[int]:
    return [one["id"] for one in members(path) if "model_name" in one]


@contextmanager
def writing(path: Path) -> Iterator[TraceWriter]:
    writer = TraceWriter(path)
    writer.start()
    yield writer
    writer.close(PATIENCE_SECONDS)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let writes beyond this size fail, as they do when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_traces_have_triton_s_form(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with writing(path) as writer:
        writer.put([trace(7, 'an "id" €'), trace(8)], 0)
    assert members(path) == [
        {"id": 7, "model_name": "m", "model_version": 3, "request_id": 'an "id" €'},
        {"id": 7, "timestamps": [{"name": "REQUEST_START", "ns": 7}, {"name": "REQUEST_END", "ns": 12}]},
        {"id": 8, "model_name": "m", "model_version": 3},
        {"id": 8, "timestamps": [{"name": "REQUEST_START", "ns": 8}, {"name": "REQUEST_END", "ns": 13}]},
    ]


def test_the_file_is_an_array_at_any_time_and_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    first = JsonArrayFile(path)
    assert members(path) == []
    first.append(["1"])
    assert members(path) == [1]
    first.append(["2", "[3]"])
    first.close()
    assert members(path) == [1, 2, [3]]
    second = JsonArrayFile(path)
    second.append(["4"])
    second.close()
    assert members(path) == [1, 2, [3], 4]


@pytest.mark.parametrize("held", ["[]", "[]\n", "[1]", "[1]\n\n", "[\n1\n]\n"])
def test_an_array_of_somebody_else_is_gone_on_with(tmp_path: Path, held: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(held)
    file = JsonArrayFile(path)
    file.append(["2"])
    file.close()
    assert members(path) == [*json.loads(held), 2]


def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(TraceFileError, match=r"notes.txt: it holds something else than traces"):
        TraceWriter(path).start()
    assert path.read_text() == "dear diary"


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/dev/full", "No space left"), ("{}", "Is a directory"), ("{}/missing/trace.json", "No such file")],
)
def test_a_place_that_cannot_be_written_is_an_error_at_the_start(
    tmp_path: Path, path: str, reason: str
) -> None:
    place = path.format(tmp_path)
    with pytest.raises(TraceFileError) as refused:
        TraceWriter(Path(place)).start()
    assert str(refused.value).startswith(f"cannot write traces to {place}: {reason}")


def test_a_series_has_so_many_traces_a_file_and_overwrites_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    (tmp_path / "trace.json.1").write_text("[]")
    with writing(path) as writer:
        writer.put([trace(number) for number in range(5)], 2)
        writer.put([trace(5)], 2)
        writer.put([trace(6)], 0)
        writer.put([trace(7)], 2)
    found = {file.name: numbers(file) for file in tmp_path.iterdir()}
    assert found == {
        "trace.json": [6],
        "trace.json.0": [0, 1],
        "trace.json.1": [],
        "trace.json.2": [2, 3],
        "trace.json.3": [4, 5],
        "trace.json.4": [7],
    }


def test_a_disk_that_is_full_loses_what_did_not_fit_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trace.json"
    with caplog.at_level(logging.ERROR), files_of_at_most(1 << 20), writing(path) as writer:
        writer.put([trace(1)], 0)
        writer.put([trace(2), trace(3, "x" * (1 << 20))], 0)
        writer.put([trace(4)], 0)
    assert numbers(path) == [1, 4]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"2 traces were lost, not written to {path}: ")
    assert "File too large" in record.getMessage()


def test_what_comes_faster_than_it_is_written_is_lost_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trace.json"
    writer = TraceWriter(path)
    for number in range(50):
        writer.put([trace(number, "x" * (1 << 20))], 0)
    with caplog.at_level(logging.ERROR):
        writer.start()
        writer.close(PATIENCE_SECONDS)
    (record,) = caplog.records
    lost = int(record.getMessage().split()[0])
    assert "they came faster than they could be written" in record.getMessage()
    assert lost == 50 - 31, "what waits has a size"
    assert numbers(path) == list(range(31))


def _is_larger(path: Path, size_bytes: int) -> bool:
    return path.stat().st_size > size_bytes


def test_what_was_written_makes_room_for_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with writing(path) as writer:
        for number in range(40):
            writer.put([trace(number, "x" * (1 << 20))], 0)
            eventually(functools.partial(_is_larger, path, (number + 1) << 20), "it is written")
    assert numbers(path) == list(range(40))


def test_an_end_without_a_beginning_is_nothing(tmp_path: Path) -> None:
    TraceWriter(tmp_path / "trace.json").close(PATIENCE_SECONDS)
    assert list(tmp_path.iterdir()) == []
