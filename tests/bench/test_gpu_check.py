"""gpu-check's own machinery: parts in processes that end in every way, and what is made of their figures."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from bench.gpu_check import goals, record, report, runner
from bench.gpu_check.__main__ import main
from bench.gpu_check.accuracy import compare, is_right
from bench.gpu_check.budget import Budget, Kind, Part
from bench.gpu_check.cases import NETWORKS, RECIPES, Case
from bench.gpu_check.parts import Phase, parts
from bench.gpu_check.record import Failure, Record
from bench.gpu_check.runner import Outcome
from bench.gpu_check.setting import Setting, of_json
from bench.gpu_check.titles import ANSWERS, CORE, ENGINE, GRAPHS, SERVER
from bench.gpu_check.watch import Busy, Look, busy, looking
from headrace_engines import plan_gate

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    return Setting(tmp_path / "cases", tmp_path / "work", seconds=0.25)


KIND = Kind("figures", 10)


def part(subject, limit=60.0):
    return Part(subject, KIND, "gpu_check_parts", limit, subject)


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
    outcome = runner.run(Part("none", KIND, "bench.gpu_check.nothing", 60.0), setting, 60.0)
    assert [failure.step for failure in outcome.found.failures] == ["measuring"]
    assert "ModuleNotFoundError" in outcome.found.failures[0].error


class Clock:
    """Time that passes while parts are run, of which some take all that they may."""

    def __init__(self, monkeypatch, hangs=(), seconds=1.0):
        self.now, self.limits = 0.0, []
        self._hangs, self._seconds = hangs, seconds
        monkeypatch.setattr(runner, "run", self._run)
        monkeypatch.setattr(runner.time, "monotonic", lambda: self.now)

    def _run(self, one, setting, limit_seconds):
        self.limits.append((one.name, limit_seconds))
        is_over = one.name.partition(" ")[0] in self._hangs
        took = limit_seconds if is_over else min(self._seconds, limit_seconds)
        self.now += took
        return Outcome(one.name, record.Found(), took, "over its limit" if is_over else "")


ENGINES, SERVERS = Kind("engines", 60), Kind("servers", 40)


def some(kind, *names, limit=1000.0):
    return [Part(name, kind, "", limit) for name in names]


def test_parts_that_hang_take_nothing_of_what_other_kinds_were_promised(setting, monkeypatch):
    clock, told = Clock(monkeypatch, hangs=("a", "b")), []
    runner.run_all([*some(ENGINES, "a", "b", "c"), *some(SERVERS, "d", "e")], setting, 100.0, told.append)
    limits = dict(clock.limits)
    assert limits["a"] == pytest.approx(20)  # a third of what engines have
    assert limits["b"] == pytest.approx(20)
    assert limits["c"] == pytest.approx(20)
    assert limits["d"] == pytest.approx((40 + 19) / 2)  # with what the third engine has left over
    assert [outcome.part for outcome in told] == ["a", "b", "c", "d", "e"]


def test_a_part_takes_no_more_than_its_own_limit(setting):
    (one,) = some(ENGINES, "a", limit=7.0)
    assert Budget([one], 100.0).limit(one, (), 100.0) == 7.0


def test_what_its_kinds_time_did_not_hold_is_tried_in_the_end(setting, monkeypatch):
    clock, told = Clock(monkeypatch, hangs=("hangs",), seconds=2.0), []
    names = [f"hangs {number}" for number in range(12)]
    runner.run_all([*some(ENGINES, *names, "late"), *some(SERVERS, "quick")], setting, 50.0, told.append)
    done = [outcome.part for outcome in told]
    assert done.index("late") < done.index("quick") < done.index("hangs 3")
    assert sorted(done) == sorted([*names, "late", "quick"])
    assert clock.now <= 50.0
    skipped = {outcome.part for outcome in told if outcome.fate == "skipped: no time was left"}
    assert skipped == set(done) - {name for name, _ in clock.limits}


NAMES = [f"{network}/{recipe}" for network in NETWORKS for recipe in RECIPES]
CASES = [Case(NETWORKS[name.partition("/")[0]], name.partition("/")[2], Path(), None, None) for name in NAMES]


def test_the_whole_check_ends_in_time_even_if_every_part_hangs(setting, monkeypatch):
    planned = list(parts(CASES, Phase.ALL))
    assert sum(kind.seconds for kind in {part.kind for part in planned}) == 450
    clock = Clock(monkeypatch, hangs={part.kind.name for part in planned})
    runner.run_all(planned, setting, 450.0, lambda outcome: None)
    assert clock.now <= 450.0
    assert {name.partition(" ")[0] for name, _ in clock.limits} == {part.kind.name for part in planned}


def test_parts_stand_in_the_order_of_their_worth():
    kinds = list(dict.fromkeys(part.kind.name for part in parts(CASES, Phase.ALL)))
    assert kinds == [
        "machine",
        "answers",
        "engine",
        "core",
        "server",
        "graphs",
        "copies",
        "drivers",
        "provider",
    ]
    answers = [part.subject for part in parts(CASES, Phase.ALL) if part.kind.name == "answers"]
    assert answers[:4] == ["digits-mlp/fp32", "resnet50/int8-tensorrt", "resnet50/fp16", "resnet50/fp32"]
    assert sorted(answers) == sorted(NAMES)
    both = [part for phase in (Phase.FIRST, Phase.SECOND) for part in parts(CASES, phase)]
    assert sorted(part.name for part in both) == sorted(part.name for part in parts(CASES, Phase.ALL))
    assert {part.kind.name for part in parts(CASES, Phase.FIRST)} == {"machine", "copies", "provider"}


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
from bench.gpu_check.budget import Kind, Part
import bench.gpu_check.__main__ as program

program.parts = lambda cases, phase: [
    Part(name, Kind("figures", 10), "gpu_check_parts", 60.0, name) for name in ("ends", "hangs", "fails")
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
ANSWERS_ROWS = [
    {"model": "m", "right": True, "graphs": "6 of 6"},
    {"model": "m", "right": True, "graphs": "3 of 3"},
]
GRAPHS_ROWS = [
    {"model": "m", "rows": 1, "graphs": "on", "captured": True, "ms": 1.0},
    {"model": "m", "rows": 8, "graphs": "on", "captured": True, "ms": 3.0},
    {"model": "m", "rows": 1, "graphs": "off", "captured": False, "ms": 4.0},
]
SERVER_ROWS = [
    {"model": "m", "by": "messages", "rows/s": 4000, "GPU busy %": 35, "NVML samples": 9},
    {"model": "m", "by": "shared memory", "rows/s": 11500, "GPU busy %": 93, "NVML samples": 12},
]


def whole():
    return [
        document("machine", facts={"gpus": [GPU], "library": "rtx1.7"}.items()),
        document("answers m", {ANSWERS: ANSWERS_ROWS}.items()),
        document("answers n", {ANSWERS: [{"model": "n", "right": False, "graphs": "0 of 6"}]}.items()),
        document("answers o", failures=[Failure("loading", "E: no"), Failure("x", "y")]),
        document("answers p", failures=[Failure("loading", "E: no"), Failure("x", "y")]),
        document("engine m", {ENGINE: ENGINE_ROWS}.items()),
        document("server m", {SERVER: SERVER_ROWS}.items(), fate="over its 9 s"),
        document("core m", {CORE: [{"model": "m", "batch": 64, "rows/s": 10000}]}.items()),
        document("graphs m", {GRAPHS: GRAPHS_ROWS}.items(), fate="over its 9 s"),
    ]


def test_the_summary_holds_figures_against_their_goals():
    assert goals.summary(whole()) == [
        "GPU: H200 (sm90, 139 GiB); rtx1.7",
        "plans: 1 of 4 load and answer as ONNX Runtime does; WRONG: n",
        "CUDA graphs: 1 of 4 plans are captured in all batch sizes; NOT, OR IN PART: n",
        "m, rows/s at the best batch: it 12,500 (64)",
        "m: the server answers 11,500 rows/s by shared memory, "
        "0.92 of the engine alone (12,500): reached (0.9)",
        "m: the GPU is busy 93 % of it, by 12 samples of NVML: reached (90 %)",
        "m: the core keeps 0.80 of the engine's pace in batches of 64: BELOW THE GOAL OF 0.9",
        "m: graphs of 2 of 2 batch sizes; the time of a batch with them, of that without: 0.25 at 1",
    ]
    assert goals.summary([]) == ["GPU: not looked for", "plans: none was tried"]
    none = document("machine", facts={"gpus": [], "why none": "no driver"}.items())
    assert goals.summary([none])[0] == "GPU: none: no driver"


def test_the_text_has_each_failure_once_and_a_table_of_each_kind(tmp_path):
    told = report.document(whole(), started="2030-01-01T00:00:00Z", is_complete=True)
    report.save(told, tmp_path)
    assert json.loads((tmp_path / report.JSON_NAME).read_text()) == told
    lines = (tmp_path / report.TEXT_NAME).read_text().splitlines()
    assert "! answers o, answers p: loading: E: no (and 1 more)" in lines
    assert "! server m, graphs m: over its 9 s" in lines
    cells = [line.split() for line in lines]
    assert ["m", "64", "6.4", "10,000", "12,500"] in cells
    assert ["m", "shared", "memory", "11,500", "93", "12"] in cells
    assert ["n", "NO", "0", "of", "6"] in cells


NEAR = 1 - 10 ** (-plan_gate.LEAST_SQNR_DB / 20) / 2
"""Answers that are scaled by this are as like as they have to be."""


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], True),
        ([[NEAR, 0.0], [0.0, NEAR]], True),
        ([[0.6, 0.0], [0.0, 0.6]], False),  # the same classes, and far from the scores
        ([[0.0, 1.0], [1.0, 0.0]], False),
        ([[1.0, np.nan], [0.0, 1.0]], False),
    ],
)
def test_answers_are_right_by_the_judgement_that_plans_are_served_by(answers, right):
    reference = np.eye(2, dtype=np.float32)
    found = compare(np.array(answers, np.float32), reference)
    assert found == plan_gate.likeness([reference], [np.array(answers, np.float32)]) or not right
    assert is_right(found) is right


@pytest.mark.parametrize(
    ("sqnr_db", "agreement", "right"),
    [
        (plan_gate.LEAST_SQNR_DB, plan_gate.LEAST_AGREEMENT, True),
        (plan_gate.LEAST_SQNR_DB - 0.1, 1.0, False),
        (200.0, plan_gate.LEAST_AGREEMENT - 0.01, False),
        (float("nan"), 1.0, False),
    ],
)
def test_both_measures_have_to_suffice(sqnr_db, agreement, right):
    assert is_right(plan_gate.Likeness(8, sqnr_db, agreement)) is right


def looks(*told):
    return [Look(at, rows, round(computed * 1e9), nvml) for at, rows, computed, nvml in told]


BEFORE = (0.0, 100, 5.0, 0.0)
ASKED = (1.0, 108, 5.1, 0.1)
BEGUN = (2.0, 120, 5.2, 0.2)
"""The generators have started, and NVML still tells of what was before."""
AFTER = (7.0, 1000, 9.0, 0.3)


@pytest.mark.parametrize(
    ("under", "expected"),
    [
        ([(3.0, 300, 6.0, 0.9), (4.0, 500, 6.9, 0.95), (5.0, 700, 7.8, 0.7)], Busy(90.0, 3, 90.0)),
        ([(3.0, 300, 6.0, None), (5.0, 700, 7.8, None)], Busy(90.0, 0, 90.0)),
        ([(3.0, 300, 6.0, 0.5), (6.0, 980, 8.9, 0.1)], Busy(50.0, 1, None)),  # the last calls are waited for
        ([], Busy(None, 0, None)),
    ],
)
def test_the_gpu_is_looked_at_while_the_load_is_on(under, expected):
    found = busy(looks(BEFORE, ASKED, BEGUN, *under, AFTER), 8, 64, 1.0)
    assert (found.samples, found.percent, found.computing_percent) == (
        expected.samples,
        pytest.approx(expected.percent),
        pytest.approx(expected.computing_percent),
    )


def test_a_server_that_never_computed_kept_nothing_busy():
    assert busy(looks(BEFORE, ASKED, (7.0, 108, 5.1, 0.4)), 8, 64, 1.0) == Busy(None, 0, None)


def test_looks_are_taken_before_the_load_while_it_is_on_and_after_it():
    taken, enough = itertools.count(), threading.Event()

    def look():
        number = next(taken)
        if number == 3:
            enough.set()
        return Look(number, 0, 0, None)

    with looking(look) as seen:
        assert [one.at for one in seen[:1]] == [0]
        assert enough.wait(60)
    assert [one.at for one in seen] == list(range(len(seen)))
    assert len(seen) >= 5
