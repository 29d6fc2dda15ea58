"""The models that gpu-check tries, and servers on them: on this machine's CPU, by the same calls."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
import types
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from bench import first_answer
from bench.gpu_check import building, networks, serving
from bench.gpu_check.cases import NETWORKS, cases, described, find
from bench.gpu_check.engine import speed
from bench.gpu_check.make_cases import make
from bench.gpu_check.regions import SHARED_MEMORY
from bench.gpu_check.serving import MESSAGES, Load, put_under, start
from bench.gpu_check.setting import Setting
from bench.http2 import framed
from bench.models import INPUT, request
from headrace_engines import trial
from headrace_engines.metrics import classes
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

ROOT = Path(__file__).parents[2]
CONTAINERS = [str(ROOT / name) for name in ("proto", "engines", "server", "client")]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A small one of the models in two precisions; plans too, where TensorRT for RTX is installed."""
    folder = tmp_path_factory.mktemp("cases")
    small = dataclasses.replace(NETWORKS["digits-mlp"], widths=(64, 32, 10))
    make(small, folder, ["fp32", "int8-tensorrt"])
    return folder


def test_each_precision_of_a_model_that_was_made_is_a_case(repository):
    found = {case.name: case for case in cases(repository)}
    assert list(found) == ["digits-mlp/fp32", "digits-mlp/int8-tensorrt"]
    assert {case.onnx.file for case in found.values()} == {"model.onnx", "model.int8-tensorrt.onnx"}
    for case in found.values():
        assert case.plan is None or (case.plan.file.endswith(".plan") and case.plan.recipe == case.recipe)


def test_a_case_is_looked_for_first_among_what_was_built_here(repository, tmp_path):
    setting = Setting(repository, tmp_path)
    assert find(setting, "digits-mlp/fp32").folder.is_relative_to(repository)
    with pytest.raises(LookupError, match="digits-mlp/fp8"):
        find(setting, "digits-mlp/fp8")
    built = setting.built / "digits-mlp" / "1"
    built.mkdir(parents=True)
    whole = described(repository / "digits-mlp" / "1")
    (built / "manifest.json").write_bytes(
        dataclasses.replace(whole, artefacts=whole.artefacts[:1]).to_bytes()
    )
    assert find(setting, "digits-mlp/fp32").folder == built
    assert find(setting, "digits-mlp/int8-tensorrt").folder.is_relative_to(repository)


def test_a_plan_that_is_built_anew_takes_the_place_of_the_one_before(repository, tmp_path, monkeypatch):
    setting = Setting(repository, tmp_path)
    case = find(setting, "digits-mlp/fp32")
    for name in ("model.old.plan", "model.new.plan"):
        made = dataclasses.replace(case.onnx, file=name)
        planned = types.SimpleNamespace(artefacts=(made,), warning="")
        monkeypatch.setattr(building, "plans", lambda *_, planned=planned, **__: planned)
        assert building.build(case, setting).plan.file == name
    other = find(setting, "digits-mlp/int8-tensorrt")
    made = dataclasses.replace(other.onnx, file="model.int8.plan")
    planned = types.SimpleNamespace(artefacts=(made,), warning="")
    monkeypatch.setattr(building, "plans", lambda *_, **__: planned)
    assert building.build(other, setting).plan.file == "model.int8.plan"
    assert find(setting, "digits-mlp/fp32").plan.file == "model.new.plan"


def test_what_is_made_reads_digits_in_every_precision(repository):
    with np.load(repository / "digits-mlp" / "rows.npz") as stored:
        labels = stored["labels"]
    for case in cases(repository):
        engine = OnnxRuntimeEngine(case.folder / case.onnx.file, max_batch_size=64, fuses=False)
        (answers,) = trial.answers(engine, {INPUT: case.rows(256)})
        engine.close()
        assert np.mean(classes(answers) == labels) > 0.9, case.name


def test_a_batch_that_runs_in_a_larger_size_says_in_which(repository):
    case = next(iter(cases(repository)))
    with closing(OnnxRuntimeEngine(case.folder / case.onnx.file, max_batch_size=8)) as engine:
        engine.spec = dataclasses.replace(engine.spec, batch_sizes=(4, 8))
        assert [speed(engine, rows, 0.001).get("padded to") for rows in (2, 4, 5)] == [4, None, 8]


def test_large_networks_keep_a_signal_as_large_as_it_is(tmp_path):
    """ResNet-50, narrower and on smaller pictures: its answers are neither lost in FP16 nor all the same."""
    path = tmp_path / "model.onnx"
    onnx.save(networks.resnet50((3, 32, 32), 10, ((8, 3), (16, 4), (32, 6), (64, 3))), path)
    engine = OnnxRuntimeEngine(path, max_batch_size=4)
    (answers,) = engine.run([np.random.default_rng(0).standard_normal((4, 3, 32, 32), np.float32)])
    engine.close()
    assert 0.01 < answers.std(axis=0).mean() < 100
    assert 0.1 < np.abs(answers).max() < 1000


def test_filters_of_two_values_come_again():
    weights = networks.Graph((1,)).signs(200, 32, 3, 3)
    assert len(np.unique(weights)) == 2
    assert np.array_equal(weights[:64], weights[64:128])
    assert np.allclose(np.abs(weights), (2 / (32 * 9)) ** 0.5)


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    """A server on the first case, found as a user finds it who has installed nothing of this."""
    program = f"import runpy, sys; sys.path[:0] = {CONTAINERS!r}; sys.argv[1:3] = []; "
    program += "runpy.run_module('headrace_cli', run_name='__main__')"
    case = next(iter(cases(repository)))
    python = (sys.executable, "-c", program)
    setting = Setting(repository, tmp_path_factory.mktemp("work"), python=python)
    with start(case, 64, setting) as running:
        yield running


@pytest.mark.parametrize(("way", "rows"), [(MESSAGES, 1), (SHARED_MEMORY, 8)])
def test_a_load_on_a_server_is_answered_in_batches(way, rows, server):
    served = put_under(server, Load(way, rows, 16, 2), 0.4)
    assert served.failed == 0
    assert served.rows_per_second > 0
    assert 0 < served.p50_ms <= served.p99_ms
    assert rows <= served.mean_batch <= 64
    assert served.server_cores > 0
    assert server.platform() == "onnxruntime_onnx"


def test_messages_of_any_size_are_sent_too(server, tmp_path):
    body = tmp_path / "body"
    body.write_bytes(framed(request(server.case.network, count=1000)))
    path = f"/{serving.TRITON_SERVICE}/ModelInfer"
    alone = tmp_path / "alone"
    alone.write_bytes(framed(request(server.case.network)))
    reply_bytes = first_answer.call(server.port, path, alone.read_bytes())
    command = [sys.executable, "-m", "bench.gpu_check.caller", "--port", server.port, "--path", path]
    command += ["--reply-bytes", reply_bytes, "--in-flight", 8, "--seconds", 0.3, "--body"]
    results = []
    for sent in (alone, body):  # the second has more rows than a batch
        words = [str(word) for word in (*command, sent)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert [result["failed"] > 0 for result in results] == [False, True]
    assert [result["replies"] > 0 for result in results] == [True, False]


@pytest.mark.parametrize(
    ("program", "left_seconds", "said"),
    [
        ("import sys; sys.exit('no such thing')", math.inf, r"did not start in 60 s: no such thing"),
        ("import threading; threading.Event().wait()", 2.0, r"did not start in 1 s"),
    ],
)
def test_a_server_that_does_not_start_leaves_time_to_tell(program, left_seconds, said, repository, tmp_path):
    case = next(iter(cases(repository)))
    ends_at = time.monotonic() + left_seconds
    setting = Setting(repository, tmp_path, python=(sys.executable, "-c", program), ends_at=ends_at)
    with pytest.raises(serving.ServingError, match=said), start(case, 64, setting):
        pass
