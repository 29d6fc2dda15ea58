"""gpu-check's own machinery: parts in processes that end in every way, and what is made of their figures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.gpu_check import goals, record, report, runner
from bench.gpu_check.__main__ import main
from bench.gpu_check.accuracy import compare
from bench.gpu_check.record import Failure, Record
from bench.gpu_check.runner import Outcome, Part
from bench.gpu_check.setting import Setting, of_json
from bench.gpu_check.titles import ANSWERS, CORE, ENGINE, SERVER

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    return Setting(tmp_path / "cases", tmp_path / "work", seconds=0.25)


def part(subject, limit=60.0):
    return Part(subject, "gpu_check_parts", limit, subject)


def run(subject, setting, limit=60.0):
    return runner.run(part(subject), setting, limit)


def figures(outcome):
    return [row["number"] for row in outcome.found.tables["figures"]]


def commands():
    """Yield the command lines of the processes that there are."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield process.read_text()


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_is_told_its_setting_and_comes_to_its_end(setting):
    outcome = run("ends", setting)
    assert outcome.is_good, outcome
    assert figures(outcome) == [1]
    assert outcome.found.facts == {"seconds": 0.25}
    assert outcome.found.has_ended


def test_what_follows_a_step_that_failed_is_done_all_the_same(setting):
    outcome = run("fails", setting)
    assert (outcome.fate, figures(outcome)) == ("", [1, 2])
    assert outcome.found.failures == [Failure("the first", "ValueError: not this way")]
    assert not outcome.is_good


@pytest.mark.parametrize(
    ("subject", "fate", "said"),
    [
        ("aborts", "ended by SIGABRT in 'aborting'", "Fatal Python error: Aborted"),
        ("exits", "ended with exit code 3 in 'leaving'", ""),
    ],
)
def test_a_part_that_ends_in_another_way_keeps_what_it_had(subject, fate, said, setting):
    outcome = run(subject, setting)
    assert (outcome.fate, figures(outcome)) == (fate, [1])
    assert said in outcome.log


def test_a_part_that_hangs_is_ended_with_all_that_it_started(setting):
    outcome = run("hangs", setting, 2.0)
    assert outcome.fate == "over its 2 s in 'waiting for ever'"
    assert figures(outcome) == [1]
    assert "gpu_check_parts.py" in outcome.log  # where it hung
    while is_running(outcome.found.facts["child"]):  # until its end has come to it
        os.sched_yield()


def test_a_part_that_is_no_module_is_a_failure_of_its_own(setting):
    outcome = runner.run(Part("none", "bench.gpu_check.nothing", 60.0), setting, 60.0)
    assert [failure.step for failure in outcome.found.failures] == ["measuring"]
    assert "ModuleNotFoundError" in outcome.found.failures[0].error


def test_parts_go_on_after_each_other_and_the_budget_holds(setting, monkeypatch):
    fates = {"one": "over its 9 s", "two": "over its 9 s in 'x'", "three": "", "four": ""}
    limits = {}

    def fake_run(one, given, limit_seconds):
        limits[one.name] = limit_seconds
        return Outcome(one.name, record.Found(), 1.0, fates[one.name])

    monkeypatch.setattr(runner, "run", fake_run)
    told = []
    parts = [Part(name, "", 40.0) for name in fates]
    runner.run_all(parts, setting, 1000.0, told.append)
    assert limits == {"one": 40.0, "two": 40.0, "three": 20.0, "four": 20.0}
    assert [outcome.fate for outcome in told] == list(fates.values())

    limits.clear(), told.clear()
    runner.run_all(parts, setting, 1.0, told.append)
    assert not limits
    assert {outcome.fate for outcome in told} == {"skipped: no time was left"}


def test_a_record_that_broke_off_within_a_line_is_read_up_to_there(tmp_path):
    path = tmp_path / "record"
    writer = Record(path)
    writer.row("t", a=1)
    with writer.step("outer"):
        writer.row("t", a=2)
        path.write_text(path.read_text() + '{"table": "t", "ro')
        found = record.read(path)
    assert found.tables == {"t": [{"a": 1}, {"a": 2}]}
    assert found.unfinished == ["outer"]
    assert not found.has_ended
    assert record.read(tmp_path / "none") == record.Found()


def test_a_setting_survives_the_way_to_another_process(tmp_path):
    setting = Setting(tmp_path, tmp_path / "w", (1, 8), 0.5, 1, ("python3", "-X", "dev"))
    assert of_json(setting.to_json()) == setting


_TERMINATED = """
import sys
from pathlib import Path
from bench.gpu_check import parts, report
from bench.gpu_check.__main__ import Check, main
from bench.gpu_check.runner import Part
import bench.gpu_check.__main__ as program

program.parts = lambda cases, phase: [
    Part(name, "gpu_check_parts", 60.0, name) for name in ("ends", "hangs", "fails")
]
program._cases = lambda repository: []
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_that_is_ended_leaves_what_it_had(setting, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-u", "-c", _TERMINATED, "--out", str(out), "--work", str(tmp_path / "work")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert "ends: ok" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    while any(str(tmp_path) in command for command in commands()):  # until their end has come to its parts
        os.sched_yield()
    assert "what was measured is kept" in rest
    whole = json.loads((out / report.JSON_NAME).read_text())
    assert not whole["complete"]
    assert [one["part"] for one in whole["parts"]] == ["ends"]
    assert "not complete" in (out / report.TEXT_NAME).read_text()


def test_without_models_there_is_nothing_to_check(tmp_path, capsys):
    assert main(["--cases", str(tmp_path / "none")]) == 2
    assert "make gpu-bundle" in capsys.readouterr().err


def document(name, tables=(), facts=(), failures=(), fate=""):
    found = record.Found(dict(tables), dict(facts), list(failures))
    return Outcome(name, found, 1.5, fate).document()


GPU = {"name": "H200", "architecture": "sm90", "total_bytes": 139 << 30}
ENGINE_ROWS = [
    {"model": "m", "rows": 8, "ms": 1.0, "rows/s": 8000, "rows/s, 2 in flight": 9000},
    {"model": "m", "rows": 64, "ms": 6.4, "rows/s": 10000, "rows/s, 2 in flight": 12500},
]
SERVER_ROWS = [
    {"model": "m", "by": "messages", "rows/s": 4000, "GPU busy %": 35},
    {"model": "m", "by": "shared memory", "rows/s": 11500, "GPU busy %": 93},
]


def whole():
    return [
        document("machine", facts={"gpus": [GPU], "library": "rtx1.7"}.items()),
        document("engine m", {ANSWERS: [{"model": "m", "right": True}], ENGINE: ENGINE_ROWS}.items()),
        document("engine n", {ANSWERS: [{"model": "n", "right": False}]}.items()),
        document("engine o", failures=[Failure("loading", "E: no"), Failure("x", "y")]),
        document("engine p", failures=[Failure("loading", "E: no"), Failure("x", "y")]),
        document("server m", {SERVER: SERVER_ROWS}.items(), fate="over its 9 s"),
        document("core m", {CORE: [{"model": "m", "batch": 64, "rows/s": 10000}]}.items()),
    ]


def test_the_summary_holds_figures_against_their_goals():
    assert goals.summary(whole()) == [
        "GPU: H200 (sm90, 139 GiB); rtx1.7",
        "plans: 1 of 4 load and answer as ONNX Runtime does; WRONG: n",
        "m, rows/s at the best batch: it 12,500 (64)",
        "m: the server answers 11,500 rows/s by shared memory, "
        "0.92 of the engine alone (12,500): reached (0.9)",
        "m: the GPU is busy 93 % of it: reached (90 %)",
        "m: the core keeps 0.80 of the engine's pace in batches of 64: BELOW THE GOAL OF 0.9",
    ]
    assert goals.summary([]) == ["GPU: not looked for", "plans: none was tried"]
    none = document("machine", facts={"gpus": [], "why none": "no driver"}.items())
    assert goals.summary([none])[0] == "GPU: none: no driver"


def test_the_text_has_each_failure_once_and_a_table_of_each_kind(tmp_path):
    told = report.document(whole(), started="2030-01-01T00:00:00Z", is_complete=True)
    report.save(told, tmp_path)
    assert json.loads((tmp_path / report.JSON_NAME).read_text()) == told
    lines = (tmp_path / report.TEXT_NAME).read_text().splitlines()
    assert "! engine o, engine p: loading: E: no (and 1 more)" in lines
    assert "! server m: over its 9 s" in lines
    cells = [line.split() for line in lines]
    assert ["m", "64", "6.4", "10,000", "12,500"] in cells
    assert ["m", "shared", "memory", "11,500", "93"] in cells
    assert ["n", "NO"] in cells


@pytest.mark.parametrize(
    ("answers", "top1", "sqnr_db", "right"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 1.0, 200.0, True),
        ([[0.9, 0.0], [0.0, 0.9]], 1.0, pytest.approx(17.0, abs=0.1), True),  # the same classes
        ([[0.0, 1.0], [1.0, 0.0]], 0.0, pytest.approx(-6.0, abs=0.1), False),
        ([[1.0, np.nan], [0.0, 1.0]], 0.0, 0.0, False),
    ],
)
def test_answers_are_right_by_their_classes_or_their_likeness(answers, top1, sqnr_db, right):
    found = compare(np.array(answers, np.float32), np.eye(2, dtype=np.float32))
    assert (found.top1, found.sqnr_db, found.is_right) == (top1, sqnr_db, right)
