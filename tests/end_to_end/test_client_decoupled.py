"""Both clients of `headrace` and a program that answers as often as it likes, in a real server."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import ServerProcess

from headrace import AsyncClient, Client, EngineFailed, HeadraceError, NotSupported, Unavailable
from headrace_cli.main import run

PROGRAM = """
from headrace_engines.python_model import *

class Model:
    inputs = [Tensor("x", "INT64", [1])]
    outputs = [Tensor("y", "INT64", [1])]
    decoupled = True

    def execute(self, batch):
        (request,) = batch.requests
        count = int(request.inputs["x"][0])
        print(f"asked for {count}")
        number = 0
        try:
            while number != abs(count) and not request.abandoned:
                yield Response(request, {"y": [number]})
                number += 1
            if count < 0:
                yield Response(request, error=ExecutionError("half of it"))
        finally:
            print(f"left at {number}")
"""
ENDLESS = 2**60

Outcome = tuple[Any, Any]
Collect = Callable[..., list[Outcome]]


def until_the_end(_: Outcome) -> bool:
    return False


def blocking(
    address: str, requests: Iterable[Outcome], leaves: Callable[[Outcome], bool] = until_the_end, **more: Any
) -> list[Outcome]:
    """Return the outcomes, up to the one with which the caller leaves."""
    found = []
    with Client(address) as client, closing(client.stream(requests, model="counts", **more)) as stream:
        for outcome in stream:
            found.append(outcome)
            if leaves(outcome):
                break
    return found


def asynchronous(
    address: str, requests: Iterable[Outcome], leaves: Callable[[Outcome], bool] = until_the_end, **more: Any
) -> list[Outcome]:
    """Do the same by asyncio."""

    async def collect() -> list[Outcome]:
        found = []
        async with (
            AsyncClient(address) as client,
            aclosing(client.stream(requests, model="counts", **more)) as stream,
        ):
            async for outcome in stream:
                found.append(outcome)
                if leaves(outcome):
                    break
        return found

    return asyncio.run(collect())


@pytest.fixture(params=[blocking, asynchronous])
def collect(request: pytest.FixtureRequest) -> Collect:
    kind: Collect = request.param
    return kind


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    (path / "counts" / "1").mkdir(parents=True)
    (path / "counts" / "1" / "model.py").write_text(PROGRAM, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[tuple[ServerProcess, str]]:
    with ServerProcess(repository, "--allow-python-models") as process:
        yield process, process.ready()["grpc"]


def count(number: int) -> dict[str, Any]:
    return {"x": np.array([number])}


def values(outcomes: Iterable[Outcome], key: object) -> list[int]:
    return [outcome["y"].item() for found, outcome in outcomes if found == key and isinstance(outcome, dict)]


def test_each_request_gets_every_answer_in_order_under_its_key(
    server: tuple[ServerProcess, str], collect: Collect
) -> None:
    counts = [5, 1, 0, 300, 0, 2]
    outcomes = collect(server[1], [(n, count(times)) for n, times in enumerate(counts)], max_in_flight=2)
    for key, times in enumerate(counts):
        assert values(outcomes, key) == list(range(times))
    assert len(outcomes) == sum(counts)


def test_a_request_without_an_answer_is_executed_once(
    server: tuple[ServerProcess, str], collect: Collect
) -> None:
    server[0].log.clear()
    assert collect(server[1], [("none", count(0)), ("mark", count(77))], max_in_flight=1)
    server[0].await_log("left at 77")
    assert sum("asked for 0" in line for line in server[0].log) == 1


def test_an_error_comes_after_what_came_before_it(
    server: tuple[ServerProcess, str], collect: Collect
) -> None:
    outcomes = collect(server[1], [("bad", count(-3)), ("good", count(2))])
    assert values(outcomes, "bad") == [0, 1, 2]
    assert values(outcomes, "good") == [0, 1]
    (error,) = [outcome for _, outcome in outcomes if isinstance(outcome, HeadraceError)]
    assert isinstance(error, EngineFailed)
    assert "half of it" in str(error)
    assert error.attempts == 1


def test_a_caller_that_leaves_in_the_middle_ends_it(
    server: tuple[ServerProcess, str], collect: Collect
) -> None:
    server[0].log.clear()
    outcomes = collect(server[1], [("long", count(ENDLESS))], lambda outcome: outcome[1]["y"].item() == 9)
    assert values(outcomes, "long") == list(range(10))
    server[0].await_log("left at")


def test_a_server_that_is_killed_in_the_middle_is_an_error_after_what_it_gave(
    repository: Path, collect: Collect
) -> None:
    with ServerProcess(repository, "--allow-python-models") as doomed:
        target = doomed.ready()["grpc"]

        def kill_early(outcome: Outcome) -> bool:
            if isinstance(outcome[1], dict) and outcome[1]["y"].item() == 3:
                doomed.signal(signal.SIGKILL)
            return False

        outcomes = collect(target, [("long", count(ENDLESS))], kill_early)
    found = values(outcomes, "long")
    assert found == list(range(len(found)))
    error = outcomes[-1][1]
    assert isinstance(error, Unavailable)
    assert error.attempts == 1


def test_a_single_call_says_how_to_ask_instead(server: tuple[ServerProcess, str]) -> None:
    with Client(server[1]) as client, pytest.raises(NotSupported, match="stream"):
        client.infer("counts", count(1))


def test_the_command_counts_answers(
    server: tuple[ServerProcess, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stream", server[1], "counts", "--input", "[3]"]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["outputs"]["y"] for line in printed.out.splitlines()] == [[0], [1], [2]]
    assert printed.err.startswith("3 answered and 0 failed")
