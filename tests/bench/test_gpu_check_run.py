"""The whole of gpu-check on a fake GPU, whose TensorRT computes with ONNX Runtime."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import sys
import time
import types

import pytest
from fake_cuda import FakeDriver, present
from fake_tensorrt import library, plan_of

from bench.gpu_check import copies, core, graphs, networks, opening, record, report, runner
from bench.gpu_check.__main__ import main
from bench.gpu_check.cases import NETWORKS
from bench.gpu_check.make_cases import make
from bench.gpu_check.record import Record
from bench.gpu_check.runner import Outcome
from bench.gpu_check.setting import OutOfTimeError, Setting
from bench.gpu_check.titles import ANSWERS, CORE, ENGINE, GRAPHS, OPENING, SERVER
from headrace_engines import manifest
from headrace_engines.errors import MemoryExhausted
from headrace_engines.manifest import artefact_of
from headrace_engines.plans import nvidia

BATCHES = (1, 2, 4)
LARGEST = 128
RECIPES = ("fp32", "fp16", "int8-tensorrt")
ROW_MS = 0.5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One model in three precisions, without plans."""
    folder = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvidia, "all_installed", tuple)
        make(dataclasses.replace(NETWORKS["digits-mlp"], widths=(64, 32, 10)), folder, RECIPES)
    return folder


@pytest.fixture
def driver():
    with FakeDriver("eager") as driver, present(driver):
        yield driver
        gc.collect()


@pytest.fixture
def run(models, driver, tmp_path, monkeypatch, capsys):
    """Run gpu-check on plans of a fake TensorRT, each part in this process; returns its document and text."""
    monkeypatch.setattr(runner, "run", in_process)
    monkeypatch.setattr(copies, "_SIZES", (4096, 65536))
    monkeypatch.setattr(copies, "_ROWS", ((256, 16),))
    fake = types.ModuleType("fake")
    fake.gpus, fake.driver = lambda: (driver.facts,), lambda facts: driver
    for name in opening.LIBRARIES.values():
        monkeypatch.setitem(sys.modules, f"headrace_engines.runtime.cuda.{name}", fake)

    def run(*arguments, damaged="", mistaken="", batches=BATCHES, **traits):
        """`damaged` and `mistaken` are recipes whose plan is cut short, and is that of another model.

        `traits` are of the library.
        """
        by = library(driver, milliseconds=lambda rows: ROW_MS * rows, **traits)
        monkeypatch.setattr(nvidia, "all_installed", lambda: (by,))
        describe(models / "digits-mlp" / "1", by, damaged, mistaken)
        out = tmp_path / "out"
        given = ["--cases", models, "--out", out, "--work", tmp_path / "work", *arguments]
        given += ["--batches", ",".join(map(str, batches)), "--seconds", "0.002"]
        code = main([str(one) for one in given])
        assert capsys.readouterr().out.endswith((out / report.TEXT_NAME).read_text() + "\n")
        return code, json.loads((out / report.JSON_NAME).read_text()), (out / report.TEXT_NAME).read_text()

    return run


def describe(folder, by, damaged, mistaken):
    """Write plans of the ONNX files in a version folder, and the manifest of all."""
    described = manifest.read(folder)
    originals = [one for one in described.artefacts if one.file.endswith(".onnx")]
    plans = []
    for one in originals:
        plan = plan_of(folder / one.file, folder, by=by, batches=[(1, LARGEST, LARGEST)])
        if one.recipe == mistaken:
            other = folder / "other.onnx"
            other.write_bytes(networks.wide_perceptron((64, 16, 10)).SerializeToString())
            plan.write_text(plan.read_text().replace(one.file, other.name))
        plans.append(artefact_of(plan, one.recipe, "tensorrt", ""))
        if one.recipe == damaged:
            plan.write_bytes(plan.read_bytes()[:-1])
    whole = dataclasses.replace(described, artefacts=(*originals, *plans))
    (folder / manifest.FILE_NAME).write_bytes(whole.to_bytes())


def in_process(part, setting, limit_seconds):
    setting.work.mkdir(parents=True, exist_ok=True)
    path = setting.work / "record"
    path.unlink(missing_ok=True)
    writer, begun = Record(path), time.monotonic()
    with writer.step("measuring"):
        importlib.import_module(part.module).measure(setting, writer, part.subject)
    writer.end()
    return Outcome(part.name, record.read(path), time.monotonic() - begun)


def rows_of(document, title):
    return report.tables(document["parts"])[title]


def copy_ns(size):
    """What the fake GPU says that a copy takes."""
    return 1000 + size / 25


def failures(document):
    return {
        (one["part"], each["step"]): each["error"] for one in document["parts"] for each in one["failures"]
    }


def test_the_whole_check_runs_on_a_fake_gpu(run):
    code, document, text = run()
    assert code == 1
    failed = list(failures(document))
    assert failed
    # These need a driver of CUDA's own: one step where its bindings are not installed, else one a size.
    assert all(part == "copies" and "not pinned" in step for part, step in failed)
    assert document["complete"]
    assert document["summary"][:3] == [
        "GPU: Fake GPU (sm90, 1 GiB); trt10.13.2.6",
        "plans: 3 of 3 load and answer as ONNX Runtime does",
        "CUDA graphs: 3 of 3 plans are captured in all batch sizes",
    ]
    cases = [f"digits-mlp/{recipe}" for recipe in RECIPES]
    answers = rows_of(document, ANSWERS)
    assert [(row["model"], row["right"], row["top-1"], row["rows"]) for row in answers] == [
        (case, True, 1.0, 256) for case in cases
    ]
    assert min(row["SQNR dB"] for row in answers) > 100
    assert {(row["wrong sizes"], row["batches"], row["graphs"]) for row in answers} == {
        ("", "1 to 4", "3 of 3")
    }
    opened = [(row["model"], row["rows"]) for row in rows_of(document, OPENING)]
    assert sorted(opened) == sorted([(case, BATCHES[-1]) for case in cases] * 2)  # to compare, and to measure
    engine = rows_of(document, ENGINE)
    assert [(row["model"], row["rows"], row["compute µs"]) for row in engine] == [
        (case, rows, 1000 * ROW_MS * rows) for case in cases for rows in BATCHES
    ]
    for row in engine:
        assert row["rows/s"] == pytest.approx(1000 * row["rows"] / row["ms"], rel=0.01)
    for row in rows_of(document, "copies, GB/s"):
        size = row["KiB"] << 10
        assert row["pinned in"] == row["pinned out"] == pytest.approx(size / copy_ns(size), abs=0.001)
    (copied,) = rows_of(document, "copying a batch, µs")
    assert copied["one copy"] == pytest.approx(copy_ns(16 * 256) / 1000, abs=0.01)
    assert copied["a copy a row"] == pytest.approx(16 * copy_ns(256) / 1000, abs=0.01)
    assert [(row["graphs"], row["rows"], row["captured"]) for row in rows_of(document, GRAPHS)] == [
        (state, rows, state == "on") for state in ("on", "off") for rows in BATCHES
    ]
    assert [row["library"] for row in rows_of(document, "drivers, µs")] == ["pycuda", "cuda-python"]
    (core,) = rows_of(document, CORE)
    assert 1 <= core["mean batch"] <= core["batch"] == BATCHES[-1]
    assert [row["failed"] for row in rows_of(document, SERVER)] == [0, 0]
    assert "digits-mlp/fp16: the core keeps" in text


def test_a_plan_that_does_not_load_keeps_no_other_from_being_tried(run):
    code, document, text = run("--only", "answers", damaged="fp16")
    assert code == 1
    assert {part for part, _ in failures(document)} == {"answers digits-mlp/fp16"}
    assert "damaged" in failures(document)["answers digits-mlp/fp16", "the plan as it came"]
    assert "plans: 2 of 3 load and answer as ONNX Runtime does" in text


def test_a_plan_that_answers_otherwise_is_found(run):
    _, document, text = run("--only", "answers", mistaken="fp16")
    assert not failures(document)
    right = {row["model"]: row["right"] for row in rows_of(document, ANSWERS)}
    assert right == {"digits-mlp/fp32": True, "digits-mlp/fp16": False, "digits-mlp/int8-tensorrt": True}
    assert "2 of 3 load and answer as ONNX Runtime does; WRONG: digits-mlp/fp16" in text


def test_graphs_that_are_asked_for_and_not_captured_are_a_failure(run):
    code, document, text = run("--only", "answers digits-mlp/fp16,graphs", capturable=False)
    assert code == 1
    refused = {
        part: error
        for (part, step), error in failures(document).items()
        if step in ("CUDA graphs, to 4 rows", "graphs on")
    }
    assert set(refused) == {"answers digits-mlp/fp16", "graphs digits-mlp/fp16"}
    for error in refused.values():
        assert error.startswith("NotCapturedError: 0 of 3 batch sizes captured: model.fp16.")
        assert error.endswith("operation not permitted when stream is capturing")
    assert [row["graphs"] for row in rows_of(document, ANSWERS)] == ["0 of 3"]
    assert (
        "CUDA graphs: 0 of 1 plans are captured in all batch sizes; NOT, OR IN PART: digits-mlp/fp16" in text
    )
    assert "digits-mlp/fp16: graphs of 0 of 3 batch sizes" in text


def test_what_was_measured_with_graphs_is_kept_if_nothing_runs_without(run, monkeypatch):
    whole = opening.observed

    def observed(setting, *, captures=True):
        if not captures:
            raise RuntimeError("no such context")
        return whole(setting, captures=captures)

    monkeypatch.setattr(graphs.opening, "observed", observed)
    _, document, text = run("--only", "graphs")
    assert failures(document) == {
        ("graphs digits-mlp/fp16", "graphs off"): "RuntimeError: no such context",
    }
    assert [(row["graphs"], row["rows"]) for row in rows_of(document, GRAPHS)] == [
        ("on", rows) for rows in BATCHES
    ]
    assert "digits-mlp/fp16: graphs of 3 of 3 batch sizes" in text


def test_a_gpu_without_room_for_large_batches_loses_those_alone(run, monkeypatch):
    whole = opening.plan

    def plan(case, gpu, most_rows, setting):
        if most_rows > 64:
            raise MemoryExhausted(f"{most_rows} rows do not fit")
        return whole(case, gpu, most_rows, setting)

    monkeypatch.setattr(opening, "plan", plan)
    only = "answers digits-mlp/fp16,engine digits-mlp/fp16,core,graphs"
    code, document, _ = run("--only", only, batches=(1, 32, 64, 128))
    assert not failures(document)
    assert code == 0
    told = [(row["batches"], row["right"], row["graphs"]) for row in rows_of(document, ANSWERS)]
    assert told == [("1 to 32", True, "2 of 2"), ("64 to 64", True, "1 of 1")]
    assert [row["rows"] for row in rows_of(document, ENGINE)] == [1, 32, 64]
    assert [row["batch"] for row in rows_of(document, CORE)] == [32, 64]
    assert [row["rows"] for row in rows_of(document, GRAPHS) if row["graphs"] == "on"] == [1, 32, 64]
    refused = {row["refused"] for row in rows_of(document, OPENING) if row.get("refused")}
    assert refused == {"128 rows do not fit"}


def test_a_part_without_time_for_all_sizes_leaves_out_the_largest(run, monkeypatch):
    measured = []

    def too_late(setting, needed_seconds):
        measured.append(needed_seconds)
        if len(measured) > 2:
            raise OutOfTimeError("left out")

    monkeypatch.setattr(Setting, "check_time", too_late)
    code, document, _ = run("--only", "engine digits-mlp/fp32")
    assert code == 1
    assert [row["rows"] for row in rows_of(document, ENGINE)] == [1, 2]
    assert list(failures(document).values()) == ["OutOfTimeError: left out"]


def test_two_phases_on_one_machine_are_told_as_one(run):
    _, first, _ = run("--phase", "first", "--only", "copies")
    assert [part["part"] for part in first["parts"]] == ["machine", "copies"]
    _, second, _ = run("--phase", "second", "--only", "core")
    assert [part["part"] for part in second["parts"]] == ["copies", "machine", "core digits-mlp/fp16"]


def test_an_engine_that_could_not_be_measured_is_closed(monkeypatch):
    def refuse(*facts):
        raise MemoryError("no room for messages")

    closed = []
    case = types.SimpleNamespace(network=NETWORKS["digits-mlp"])
    engine = types.SimpleNamespace(spec=None, platform="fake", close=lambda: closed.append("engine"))
    monkeypatch.setattr(core, "Model", refuse)
    with pytest.raises(MemoryError):
        core.through_core(case, engine, 1, 0.0)
    assert closed == ["engine"]


def test_without_a_gpu_each_part_says_so(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "run", in_process)
    with present():
        assert main(["--cases", str(models), "--out", str(tmp_path), "--work", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err == "gpu-check: no GPU can be used: CUDA shows none\n"
    document = json.loads((tmp_path / report.JSON_NAME).read_text())
    machine, *others = document["parts"]
    assert not machine["facts"]["gpus"]
    assert {part["fate"] for part in others} == {"not run: no GPU can be used: CUDA shows none"}
    assert {part["part"].partition(" ")[0] for part in others} >= {"answers", "server", "copies", "drivers"}
    assert document["summary"] == ["GPU: none: CUDA shows none", "plans: none was tried"]
    assert "graphs digits-mlp/fp16, copies, drivers pycuda" in said.out


def test_a_second_phase_looks_for_a_gpu_where_the_first_found_none(models, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run", in_process)
    for phase in ("first", "second"):
        command = ["--cases", str(models), "--out", str(tmp_path / phase), "--work", str(tmp_path)]
        with present():
            assert main([*command, "--phase", phase]) == 2
    document = json.loads((tmp_path / "second" / report.JSON_NAME).read_text())
    assert [part["part"] for part in document["parts"] if not part["fate"]] == ["machine"]
