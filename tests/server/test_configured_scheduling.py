"""What config.pbtxt says about waiting takes effect: over gRPC, on a program that the test keeps busy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hosted_server import connected, eventually, hosted, infer_request
from repositories import serving
from scripted_engines import PATIENCE_SECONDS

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.model import Model
from headrace_server.core.service import Service

Code = grpc.StatusCode

PROGRAM = """
from pathlib import Path

from headrace_engines.python_model import Tensor


class Model:
    inputs = [Tensor("x", "FP32", [1])]
    outputs = [Tensor("y", "FP32", [1])]

    def execute(self, batch):
        with Path({log!r}).open("a") as log:
            log.write(" ".join(request.id for request in batch.requests) + "\\n")
        if batch.requests[0].id == "busy":
            with open({pipe!r}, "rb", buffering=0) as pipe:
                pipe.read(1)
        return {{"y": batch["x"]}}
"""
DEFAULT_POLICY = "max_batch_size: 1 dynamic_batching {{ default_queue_policy {{ {} }} }}"


class Configured:
    """A model under a configuration, and the connection to its server."""

    def __init__(self, stub: InferenceServiceStub, model: Model, log: Path, pipe: int) -> None:
        self.stub = stub
        self._model = model
        self._log = log
        self._pipe = pipe

    def begin(self, name: str, **parameters: Any) -> Any:
        """Ask for a row under this id; return the call's future."""
        return self.stub.ModelInfer.future(request(name, **parameters))

    def occupy(self) -> Any:
        """Begin a request that is executed until `release`."""
        call = self.begin("busy")
        eventually(lambda: "busy" in self.executed(), "the program is busy")
        return call

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return self._model.waiting

    def wait_behind(self, name: str, **parameters: Any) -> Any:
        """Ask for a row, and wait until it is in the queue."""
        before = self.waiting
        call = self.begin(name, **parameters)
        eventually(lambda: self.waiting == before + 1, f"{name} waits")
        return call

    def release(self) -> None:
        """End what is busy, or has said so and is about to wait: the byte stays in the pipe."""
        os.write(self._pipe, b".")

    def executed(self) -> list[str]:
        """Return the ids of each execution, in order."""
        return self._log.read_text().splitlines() if self._log.exists() else []


def request(name: str, **parameters: Any) -> pb.ModelInferRequest:
    return infer_request("m", ("x", "FP32", (1, 1), bytes(4)), id=name, **parameters)


@contextmanager
def held_open(pipe: Path) -> Iterator[int]:
    """Make a pipe that has a writer as long as this lasts: opening it to read never waits, reading does."""
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def configured(folder: Path, config: str) -> Iterator[Configured]:
    (folder / "m" / "1").mkdir(parents=True)
    (folder / "m" / "config.pbtxt").write_text(config)
    log, pipe = folder / ".log", folder / ".pipe"
    (folder / "m" / "1" / "model.py").write_text(PROGRAM.format(log=str(log), pipe=str(pipe)))
    with (
        held_open(pipe) as release,
        serving(folder, allow_python=True) as repository,
        hosted(Service(repository.catalogue, repository)) as server,
        connected(server.address) as stub,
    ):
        it = Configured(stub, repository.catalogue.find("m", ""), log, release)
        try:
            yield it
        finally:
            it.release()


def code_of(call: Any) -> Code:
    """Wait for the end of a call that has no deadline: nothing would wait for a batch beyond it."""
    eventually(call.done, "the call ends")
    return call.code()


def test_the_more_urgent_goes_first(tmp_path: Path) -> None:
    levels = "max_batch_size: 1 dynamic_batching { priority_levels: 3 default_priority_level: 2 }"
    with configured(tmp_path, levels) as it:
        it.occupy()
        calls = [it.wait_behind(*given, **more) for given, more in (
            (("low",), {"priority": 3}), (("usual",), {}), (("urgent",), {"priority": 1}),
            (("unknown",), {"priority": 9}), (("urgent too",), {"priority": 1}),
        )]  # fmt: skip
        it.release()
        assert all(code_of(call) is Code.OK for call in calls)
        assert it.executed() == ["busy", "urgent", "urgent too", "usual", "unknown", "low"]


def test_a_level_has_a_policy_of_its_own(tmp_path: Path) -> None:
    levels = (
        "max_batch_size: 1 dynamic_batching { priority_levels: 2 default_priority_level: 2 "
        "priority_queue_policy { key: 1 value { max_queue_size: 1 allow_timeout_override: true } } }"
    )
    with configured(tmp_path, levels) as it:
        it.occupy()
        usual = [it.wait_behind(name) for name in ("usual", "usual too")]
        assert code_of(it.begin("hurried", priority=1, timeout=1)) is Code.DEADLINE_EXCEEDED
        urgent = it.wait_behind("urgent", priority=1)
        refused = it.begin("too many", priority=1)
        assert code_of(refused) is Code.RESOURCE_EXHAUSTED
        assert "1 requests of priority 1 wait, its limit is 1" in refused.details()
        it.release()
        assert [code_of(call) for call in (*usual, urgent)] == [Code.OK] * 3
        assert it.executed() == ["busy", "urgent", "usual", "usual too"]


def test_what_waits_longer_than_its_queue_allows_is_refused(tmp_path: Path) -> None:
    policy = DEFAULT_POLICY.format("timeout_action: REJECT default_timeout_microseconds: 1000")
    with configured(tmp_path, policy) as it:
        busy = it.occupy()
        assert code_of(it.begin("late")) is Code.DEADLINE_EXCEEDED
        it.release()
        assert code_of(busy) is Code.OK
        assert it.executed() == ["busy"]


def test_what_waits_longer_than_its_queue_allows_is_put_behind_the_others(tmp_path: Path) -> None:
    policy = DEFAULT_POLICY.format("timeout_action: DELAY allow_timeout_override: true")
    with configured(tmp_path, policy) as it:
        it.occupy()
        late = it.wait_behind("late", timeout=1)
        in_time = it.wait_behind("in time")
        it.release()
        assert (code_of(late), code_of(in_time)) == (Code.OK, Code.OK)
        assert it.executed() == ["busy", "in time", "late"]


@pytest.mark.parametrize(("allowed", "code"), [("true", Code.DEADLINE_EXCEEDED), ("false", Code.OK)])
def test_a_requests_own_timeout_counts_where_it_is_allowed(tmp_path: Path, allowed: str, code: Code) -> None:
    with configured(tmp_path, DEFAULT_POLICY.format(f"allow_timeout_override: {allowed}")) as it:
        it.occupy()
        hurried = it.begin("hurried", timeout=1)
        ended = hurried.done if code is not Code.OK else lambda: it.waiting == 1
        eventually(ended, "the request is refused, or waits")
        it.release()
        assert code_of(hurried) is code


def test_no_more_wait_than_the_queue_takes(tmp_path: Path) -> None:
    with configured(tmp_path, DEFAULT_POLICY.format("max_queue_size: 2")) as it:
        it.occupy()
        waiting = [it.wait_behind(name) for name in ("first", "second")]
        refused = it.begin("third")
        assert code_of(refused) is Code.RESOURCE_EXHAUSTED
        assert "queue full: 2 requests wait" in refused.details()
        details = status_pb2.Status.FromString(dict(refused.trailing_metadata())["grpc-status-details-bin"])
        assert details.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        it.release()
        assert [code_of(call) for call in waiting] == [Code.OK, Code.OK]
        assert it.executed() == ["busy", "first", "second"]


def test_requests_wait_for_a_batch_of_a_preferred_size(tmp_path: Path) -> None:
    an_hour = "max_queue_delay_microseconds: 3600000000"
    batching = f"max_batch_size: 8 dynamic_batching {{ preferred_batch_size: 3 {an_hour} }}"
    with configured(tmp_path, batching) as it:
        calls = [it.wait_behind(name) for name in ("a", "b")]
        assert it.executed() == []
        calls.append(it.begin("c"))
        assert [code_of(call) for call in calls] == [Code.OK] * 3
        assert it.executed() == ["a b c"]


def test_instances_execute_side_by_side(tmp_path: Path) -> None:
    with configured(tmp_path, "max_batch_size: 1 instance_group { count: 2 kind: KIND_CPU }") as it:
        busy = it.occupy()
        assert code_of(it.begin("beside")) is Code.OK
        assert not busy.done()
        it.release()
        assert code_of(busy) is Code.OK


def test_answers_leave_in_the_order_of_their_requests(tmp_path: Path) -> None:
    ordered = "max_batch_size: 1 instance_group { count: 2 } dynamic_batching { preserve_ordering: true }"
    with configured(tmp_path, ordered) as it:
        requests = (request(name) for name in ("busy", "quick"))
        answers = it.stub.ModelStreamInfer(requests, timeout=PATIENCE_SECONDS)
        eventually(lambda: sorted(it.executed()) == ["busy", "quick"], "both are executed")
        it.release()
        assert [answer.infer_response.id for answer in answers] == ["busy", "quick"]
