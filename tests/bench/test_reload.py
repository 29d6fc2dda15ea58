"""Models loaded, unloaded and changed under calls that never cease: nothing is lost, nothing is wrong."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def storm(folder: Path, *arguments: object) -> dict[str, dict[str, Any]]:
    """Let it pass; return what is told of each mode."""
    told = folder / "storms.jsonl"
    words = [sys.executable, "-m", "bench.reload", "--json", told, *arguments]
    done = subprocess.run(
        [str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {report["mode"]: report for report in map(json.loads, told.read_text().splitlines())}


@pytest.mark.parametrize(("mode", "operations"), [("explicit", 20), ("poll", 24)])
def test_invariant_5_a_reload_loses_nothing_and_changes_nobodys_rows(
    tmp_path: Path, mode: str, operations: int
) -> None:
    report = storm(tmp_path, "--modes", mode, "--operations", operations, "--poll-seconds", 0.1)[mode]
    assert sum(report["operations"].values()) == operations
    assert len(report["operations"]) >= 10, "each kind was done"
    assert (report["outcomes"]["lost"], report["outcomes"]["wrong"]) == (0, 0), report["complaints"]
    assert min(report["calls"].values()) > 100
    assert report["outcomes"]["refused"] > 0, "a model was away for a while"
    assert min(min(seconds) for seconds in report["serving_seconds"].values()) > 0


@pytest.mark.slow
def test_a_storm_of_fifty_operations_in_each_mode(tmp_path: Path) -> None:
    for report in storm(tmp_path, "--operations", 50, "--poll-seconds", 0.5).values():
        assert (sum(report["operations"].values()), report["in_flight"]) == (50, 64)
        assert (report["outcomes"]["lost"], report["outcomes"]["wrong"]) == (0, 0), report["complaints"]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any, Any], None]], dict[str, int]]:
    """What becomes of calls to model m, whose version 1 is file 1 until file 2 replaces it."""
    monkeypatch.syspath_prepend(str(ROOT))
    judging = importlib.import_module("bench.reload.ledger")

    def judge(calls: Callable[[Any, Any], None]) -> dict[str, int]:
        async def told() -> dict[str, int]:
            ledger = judging.Ledger()
            for _ in range(2):
                ledger.register("m", 1)
            ledger.settle("m", {"": frozenset({1})})
            calls(ledger, judging)
            return {outcome.value: count for outcome, count in ledger.outcomes.items()}

        going: Coroutine[Any, Any, dict[str, int]] = told()
        return asyncio.run(going)

    return judge


def test_the_judge_knows_right_from_wrong(judged: Callable[..., dict[str, int]]) -> None:
    def calls(ledger: Any, judging: Any) -> None:
        def answer(question: Any, serial: int, version: str = "1", key: int | None = None) -> None:
            row = serial * judging.SPACING + (question.key if key is None else key)
            ledger.answered(question, "m", version, [float(row)] * 2)

        answer(ledger.ask("m", ""), 1)
        early = ledger.ask("m", "")
        with ledger.changing("m", {"": frozenset({2})}):
            meanwhile = [ledger.ask("m", "") for _ in range(2)]
            answer(early, 1)
        for serial, question in enumerate(meanwhile, start=1):
            answer(question, serial)
        answer(ledger.ask("m", ""), 2)
        assert ledger.outcomes == {judging.Outcome.GOOD: 5}
        answer(ledger.ask("m", ""), 1)  # it was replaced before the call began
        answer(ledger.ask("m", ""), 2, version="2")
        answer(ledger.ask("m", ""), 2, key=999)
        ledger.answered(ledger.ask("m", ""), "m", "1", [])
        assert len(ledger.complaints) == 4

    assert judged(calls) == {"good": 5, "wrong": 4}


def test_the_judge_takes_errors_only_where_they_are_explained(judged: Callable[..., dict[str, int]]) -> None:
    def calls(ledger: Any, judging: Any) -> None:
        def fail(code: str, reason: str = "") -> None:
            ledger.failed(ledger.ask("m", ""), code, reason, "text")

        fail("UNAVAILABLE", "MODEL_NOT_READY")
        ledger.settle("m", {"": frozenset({judging.UNLOADED})})
        fail("UNAVAILABLE", "MODEL_NOT_READY")
        fail("UNAVAILABLE")
        fail("NOT_FOUND")
        ledger.settle("m", {"": frozenset({judging.REMOVED})})
        fail("NOT_FOUND")
        fail("INTERNAL")

    assert judged(calls) == {"refused": 2, "lost": 4}
