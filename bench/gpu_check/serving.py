"""Servers on one case, and load on them from several processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from bench import first_answer, processes
from bench.gpu_check.cases import Case, described
from bench.gpu_check.regions import NAME, registered
from bench.gpu_check.setting import Setting
from bench.http2 import LARGEST_CALL_BYTES, framed
from bench.load import ROOT, connections
from bench.models import INPUT, request
from headrace_engines import manifest
from headrace_engines.candidates import MODEL
from headrace_engines.manifest import FP32
from headrace_proto.names import TRITON_SERVICE
from headrace_proto.v1 import inference_pb2 as pb

_START_SECONDS: Final = 60.0
_START_SHARE: Final = 0.5
"""Of the part's time: a server that starts later has none left to be measured in."""
_STOP_SECONDS: Final = 8.0
_GRACE_SECONDS: Final = 30.0
_CALL_SECONDS: Final = 20.0
MESSAGES: Final = "messages"


class ServingError(RuntimeError):
    """A server did not start, or a load on it did not end."""


@dataclass(frozen=True, slots=True)
class Load:
    """How rows come: in MESSAGES, or by the name of a region; `in_flight` are requests of all processes."""

    way: str
    rows: int
    in_flight: int
    processes: int


@dataclass(frozen=True, slots=True)
class Served:
    """What came of a load."""

    rows_per_second: float
    p50_ms: float
    p99_ms: float
    mean_batch: float
    server_cores: float
    failed: int


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `start` makes one."""

    case: Case
    port: int
    process: subprocess.Popen[str]
    work: Path
    setting: Setting

    def call(self, procedure: str, message: bytes) -> bytes:
        """Return the answer to a unary call."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            ask: Any = channel.unary_unary(f"/{TRITON_SERVICE}/{procedure}")
            answer: bytes = ask(message, timeout=_CALL_SECONDS)
            return answer

    def platform(self) -> str:
        """Return what runs the model, in the protocol's words."""
        asked = pb.ModelMetadataRequest(name=self.case.network.name).SerializeToString()
        return pb.ModelMetadataResponse.FromString(self.call("ModelMetadata", asked)).platform

    def statistics(self) -> tuple[int, int, int]:
        """Return the rows inferred, the executions, and the nanoseconds that these computed, so far."""
        asked = pb.ModelStatisticsRequest().SerializeToString()
        models = pb.ModelStatisticsResponse.FromString(self.call("ModelStatistics", asked)).model_stats
        computed = sum(batch.compute_infer.ns for model in models for batch in model.batch_stats)
        return (
            sum(model.inference_count for model in models),
            sum(model.execution_count for model in models),
            computed,
        )


@contextlib.contextmanager
def start(case: Case, largest: int, setting: Setting) -> Iterator[Server]:
    """Serve a case alone in batches of at most `largest`, and stop in the end.

    Raises ServingError with what the server said if it does not start, or not soon enough.
    """
    work, caches = setting.work / "serving", setting.caches
    work.mkdir(parents=True, exist_ok=True)
    repository = _repository(case, work / "repository")
    command = [*setting.python, "-m", "headrace_cli", "serve", "--model-repository", str(repository)]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--max-batch-size", str(largest)]
    command += ["--allow-client-shm", "--max-queue-size", "65536", "--cache", str(caches)]
    log = work / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    # A server that says nothing is ended, so that its last line comes.
    patience = min(_START_SECONDS, _START_SHARE * setting.left_seconds)
    watch = threading.Timer(patience, process.kill)
    watch.start()
    try:
        line = process.stdout.readline() if process.stdout else ""
        watch.cancel()
        if not line:
            said = log.read_text(errors="replace")[-600:]
            raise ServingError(f"the server did not start in {patience:.0f} s: {said}")
        yield Server(case, int(json.loads(line)["grpc"].rpartition(":")[2]), process, work, setting)
    finally:
        watch.cancel()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        process.kill()
        process.wait()


def _repository(case: Case, folder: Path) -> Path:
    """Return a repository whose only model is the case, with the model as it was trained beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    version = folder / case.network.name / "1"
    version.mkdir(parents=True)
    whole = described(case.folder)
    fp32 = [one for one in whole.artefacts if one.recipe == FP32 and one.file == MODEL]
    kept = list(dict.fromkeys((*fp32, case.onnx, *([case.plan] if case.plan else []))))
    for artefact in kept:
        (version / artefact.file).symlink_to((case.folder / artefact.file).resolve())
    alone = dataclasses.replace(whole, artefacts=tuple(kept))
    (version / manifest.FILE_NAME).write_bytes(alone.to_bytes())
    return folder


def put_under(server: Server, load: Load, seconds: float) -> Served:
    """Keep calls in flight for a time. Raises ServingError if a generator fails."""
    with _message(server, load) as message:
        body = server.work / "body"
        body.write_bytes(framed(message))
        path = f"/{TRITON_SERVICE}/ModelInfer"
        reply_bytes = first_answer.call(server.port, path, body.read_bytes())
        each = max(1, load.in_flight // load.processes)
        fits = len(message) < LARGEST_CALL_BYTES
        program = "bench.generator" if fits else "bench.gpu_check.caller"
        command = [sys.executable, "-m", program, "--port", server.port, "--path", path]
        command += ["--body", body, "--reply-bytes", reply_bytes, "--in-flight", each]
        command += ["--connections", connections(each), "--seconds", seconds]
        before, cpu_before = server.statistics(), processes.cpu_seconds(server.process.pid)
        results = _generated([str(word) for word in command], load.processes, seconds, server.setting)
        after, cpu_after = server.statistics(), processes.cpu_seconds(server.process.pid)
    elapsed = max(one["seconds"] for one in results)
    rows, executions, _ = (now - then for now, then in zip(after, before, strict=True))
    return Served(
        rows_per_second=load.rows * sum(one["replies"] / one["seconds"] for one in results),
        p50_ms=max(one["p50_ms"] for one in results),
        p99_ms=max(one["p99_ms"] for one in results),
        mean_batch=rows / max(executions, 1),
        server_cores=(cpu_after - cpu_before) / elapsed,
        failed=sum(one["failed"] for one in results),
    )


def _generated(command: list[str], count: int, seconds: float, setting: Setting) -> list[dict[str, Any]]:
    """Run so many generators at once, and return what they found."""
    patience = min(seconds + _GRACE_SECONDS, max(seconds, setting.left_seconds - _STOP_SECONDS))
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(count)
    ]
    try:
        said = [process.communicate(timeout=patience)[0] for process in running]
    except subprocess.TimeoutExpired as error:
        raise ServingError(f"a generator did not end: {error}") from error
    finally:
        for process in running:
            process.kill()
    for process, text in zip(running, said, strict=True):
        if process.returncode:
            raise ServingError(f"a generator failed: {text[-400:]}")
    return [json.loads(text) for text in said]


@contextlib.contextmanager
def _message(server: Server, load: Load) -> Iterator[bytes]:
    """Yield a request; its rows stand in a region where that is the way."""
    network = server.case.network
    if load.way == MESSAGES:
        yield request(network, count=load.rows)
        return
    rows = server.case.rows(load.rows)
    with registered(load.way, rows, server.call, server.setting):
        message = pb.ModelInferRequest(model_name=network.name)
        tensor = message.inputs.add(name=INPUT, datatype="FP32", shape=rows.shape)
        tensor.parameters["shared_memory_region"].string_param = NAME
        tensor.parameters["shared_memory_byte_size"].int64_param = rows.nbytes
        yield message.SerializeToString()
