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
SERVICE = "/inference.GRPCInferenceService"
METHOD = f"{SERVICE}/ModelInfer"


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
    request.inputs.add(name="x", datatype="FP32", shape=(1, 5000))
    message = request.SerializeToString()
    body = tmp_path_factory.mktemp("echo") / "body"
    body.write_bytes(b"\0" + len(message).to_bytes(4) + message)
    process = subprocess.Popen(program("bench.echo", "--model", "mlp-small", "--port", port), cwd=ROOT)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            reply = channel.unary_unary(METHOD)(message, wait_for_ready=True, timeout=30)
        yield port, body, len(reply) + 5
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def streaming_echo(echo):
    """The same in one stream."""
    port, body, _ = echo
    message = body.read_bytes()[5:]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = next(channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(iter((message,)), timeout=30))
    return port, body, len(answer) + 5


def generate(echo, *arguments, reply_bytes=None, path=METHOD):
    port, body, size = echo
    target = ("--port", port, "--path", path, "--body", body, "--reply-bytes", reply_bytes or size)
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


STREAM = (f"{SERVICE}/ModelStreamInfer", "--stream")


def test_a_stream_carries_exactly_what_was_asked_for(streaming_echo):
    path, flag = STREAM
    result = generate(streaming_echo, flag, "--in-flight", 16, "--requests", 300, path=path)
    assert (result["replies"], result["failed"]) == (300, 0)
    assert 0 < result["p50_ms"] <= result["p99_ms"]


def test_an_answer_of_another_size_in_a_stream_is_a_failed_one(streaming_echo):
    path, flag = STREAM
    result = generate(streaming_echo, flag, "--in-flight", 4, "--requests", 20, reply_bytes=1, path=path)
    assert (result["replies"], result["failed"]) == (0, 20)


def bench(folder, *arguments):
    """Run one with short runs; return the lines that it wrote, and what it printed."""
    lines = folder / "runs.jsonl"
    done = run("bench", *arguments, "--repeats", 1, "--seconds", 0.3, "--json", lines)
    if "is not here" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in lines.read_text().splitlines()], done.stdout


def test_a_bench_measures_every_combination_and_writes_it_down(tmp_path):
    chosen = ("--servers", "echo,core", "--models", "mlp-small", "--load", "generator")
    runs, shown = bench(
        tmp_path, *chosen, "--in-flight", "1,4", "--rows", "1,8", "--stream-in-flight", 4, "--rates", 0.2
    )
    loads = [run for run in runs if "mode" in run]
    assert [(run["mode"], run["rows"], run["load"]) for run in loads[:-1]] == [
        ("closed", 1, 1),
        ("closed", 1, 4),
        ("closed", 8, 1),
        ("closed", 8, 4),
        ("stream", 1, 4),
    ]
    assert loads[-1]["mode"] == "open"
    assert all(run["requests_per_second"] > 0 and run["failed"] == 0 for run in loads)
    core = [(run["engine"], run["batch"]) for run in runs if "batch" in run]
    assert core == [(engine, batch) for engine in ("no-op", "onnxruntime") for batch in (1, 8, 32, 64)]
    for title in (
        "mlp-small, closed loop by generator",
        "mlp-small, closed loop by generator, 8 rows a request",
        "mlp-small, one stream of messages by generator",
        "mlp-small, open loop by generator",
        "the core in process",
    ):
        assert title in shown


def test_large_messages_go_through_a_stream_as_its_windows_allow(tmp_path):
    chosen = ("--servers", "echo", "--models", "image", "--load", "generator")
    runs, _ = bench(tmp_path, *chosen, "--in-flight", 2, "--stream-in-flight", 3)
    (stream,) = runs  # unary calls of this size are for other generators
    assert stream["mode"] == "stream"
    assert stream["failed"] == 0
    assert stream["megabytes_per_second"] == pytest.approx(0.602 * stream["requests_per_second"], rel=0.01)


@pytest.mark.parametrize("loader", ["h2load", pytest.param("perf_analyzer", marks=pytest.mark.slow)])
def test_other_programs_put_load_on_servers(tmp_path, loader):
    chosen = ("--servers", "headrace,aio-unbatched", "--models", "mlp-small", "--load", loader)
    runs, shown = bench(tmp_path, *chosen, "--in-flight", 4, "--rows", 8, "--rates", "")
    assert [run["loader"] for run in runs] == [loader] * 2
    for run in runs:
        assert run["requests_per_second"] > 0
        assert run["failed"] == 0
        assert 0 < run["p50_ms"] <= run["p99_ms"]
        assert run["server_cpu_us"] > 0
    assert "requests/s of headrace / of the server" in shown


def test_memory_is_looked_at_along_requests_and_with_calls_open(tmp_path):
    lines = tmp_path / "rows.jsonl"
    few = ("--first", 100, "--total", 300, "--looks", 2, "--open", 200, "--rounds", 2)
    done = run("bench.memory", "--transport", "aio", *few, "--json", lines)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(row["requests"], row["failed"]) for row in rows[:3]] == [(100, 0), (200, 0), (300, 0)]
    assert [(row["open"], row["round"]) for row in rows[3:]] == [(200, 1), (200, 2)]
    assert all(row["open_mib"] > 0 for row in rows[3:])


def test_an_unknown_server_is_refused_by_name():
    done = run("bench", "--servers", "headrace,nonesuch")
    assert done.returncode == 2
    assert "'nonesuch' is not one of headrace, headrace-aio, echo, aio-unbatched" in done.stderr


def test_a_generator_that_is_not_here_is_told_with_what_helps(tmp_path):
    command = ["env", f"PATH={tmp_path}", *program("bench", "--load", "h2load")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "h2load is not here; Debian has it in nghttp2-client" in done.stderr


def test_every_way_of_calling_is_measured_beside_its_stub():
    done = run("bench.client", "--repeats", 1, "--scale", 0.01, "--in-flight", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("small: 1x100 FP32", "large: 1x3x224x224 FP32"):
        assert title in done.stdout
    rows = [line.split("  ") for line in done.stdout.splitlines() if "Client." in line]
    assert len(rows) == 2 * 4, "sizes, and clients and their streams"
