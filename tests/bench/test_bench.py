"""The bench's programs, run as a person runs them, against a real server."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from headrace_proto.v1 import inference_pb2 as pb

ROOT = Path(__file__).parents[2]
METHOD = "/inference.GRPCInferenceService/ModelInfer"


def program(module, *arguments):
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(module, *arguments):
    return subprocess.run(
        program(module, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """A running echo server: its port, a file with a framed request, and the size of a framed answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(20_000)])
    message = request.SerializeToString()
    body = tmp_path_factory.mktemp("echo") / "body"
    body.write_bytes(b"\0" + len(message).to_bytes(4) + message)
    process = subprocess.Popen(program("bench.echo", "--port", port), cwd=ROOT)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            reply = channel.unary_unary(METHOD)(message, wait_for_ready=True, timeout=30)
        yield port, body, len(reply) + 5
    finally:
        process.terminate()
        process.wait()


def generate(echo, *arguments, reply_bytes=None):
    port, body, size = echo
    target = ("--port", port, "--path", METHOD, "--body", body, "--reply-bytes", reply_bytes or size)
    done = run("bench.generator", *target, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_generator_sends_exactly_what_was_asked_for(echo):
    result = generate(echo, "--connections", 2, "--in-flight", 8, "--requests", 300)
    assert (result["replies"], result["failed"]) == (300, 0)
    assert 0 < result["p50_ms"] <= result["p99_ms"]


def test_the_generator_keeps_to_its_time(echo):
    result = generate(echo, "--in-flight", 4, "--seconds", 0.3)
    assert result["replies"] > 0
    assert result["failed"] == 0
    assert 0.3 <= result["seconds"] < 5


def test_an_open_loop_sends_all_calls_that_were_due(echo):
    result = generate(echo, "--connections", 2, "--rate", 200, "--seconds", 0.5)
    assert (result["replies"], result["failed"]) == (100, 0)


def test_an_answer_of_another_size_is_a_failed_call(echo):
    result = generate(echo, "--in-flight", 4, "--requests", 20, reply_bytes=1)
    assert (result["replies"], result["failed"]) == (0, 20)


def test_a_bench_measures_every_combination_and_writes_it_down(tmp_path):
    lines = tmp_path / "runs.jsonl"
    chosen = ("--servers", "echo,core", "--models", "mlp-small", "--in-flight", "1,4", "--rates", "0.2")
    done = run("bench", *chosen, "--repeats", 1, "--seconds", 0.3, "--json", lines)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [json.loads(line) for line in lines.read_text().splitlines()]
    loads = [run for run in runs if "mode" in run]
    assert [(run["mode"], run["server"]) for run in loads] == [
        ("closed", "echo"),
        ("closed", "echo"),
        ("open", "echo"),
    ]
    assert [run["load"] for run in loads[:2]] == [1, 4]
    assert all(run["requests_per_second"] > 0 and run["failed"] == 0 for run in loads)
    core = [(run["engine"], run["batch"]) for run in runs if "batch" in run]
    assert core == [(engine, batch) for engine in ("no-op", "onnxruntime") for batch in (1, 8, 32, 64)]
    for title in ("mlp-small, closed loop", "mlp-small, open loop", "the core in process"):
        assert title in done.stdout


def test_an_unknown_server_is_refused_by_name():
    done = run("bench", "--servers", "headrace,nonesuch")
    assert done.returncode == 2
    assert "'nonesuch' is not one of headrace, headrace-aio, echo, core" in done.stderr


def test_every_way_of_calling_is_measured_beside_its_stub():
    done = run("bench.client", "--repeats", 1, "--scale", 0.01, "--in-flight", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("small: 1x100 FP32", "large: 1x3x224x224 FP32"):
        assert title in done.stdout
    rows = [line.split("  ") for line in done.stdout.splitlines() if "Client." in line]
    assert len(rows) == 2 * 4, "sizes, and clients and their streams"
