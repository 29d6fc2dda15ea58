"""Twenty models beside each other: loaded a few at a time while others serve; their threads and memory."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gated_programs import GatedProgram
from hosted_server import HostedServer, connected, eventually, hosted, infer_request
from model_folders import put
from onnx_models import Models
from scripted_engines import PATIENCE_SECONDS
from server_process import ServerProcess

from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.service import Service
from headrace_server.models.repository import Mode, Repository, RepositoryOptions
from headrace_server.models.versions import LoadOptions

NUMBER = 20
AT_ONCE = 40
PARALLEL = 2


def asked(stub: InferenceServiceStub, model: str) -> float:
    """Ask for a row of zeros; return its first element."""
    came = stub.ModelInfer(infer_request(model, ("x", "FP32", (1, 3), bytes(12))), timeout=PATIENCE_SECONDS)
    return float(np.frombuffer(came.raw_output_contents[0], np.float32)[0])


def await_loads(programs: Sequence[GatedProgram], count: int) -> None:
    eventually(lambda: sum(one.loads for one in programs) == count, f"{count} loads have begun")


@contextmanager
def explicit(folder: Path) -> Iterator[HostedServer]:
    """A server whose model `served` is loaded, and whose other ones may be."""
    repository = Repository(
        RepositoryOptions(
            (folder,), Mode.EXPLICIT, ("served",), parallel=PARALLEL, load=LoadOptions(allow_python=True)
        )
    )
    repository.open()
    repository.load_all()
    with hosted(Service(repository.catalogue, repository)) as server:
        yield server
    assert repository.close(PATIENCE_SECONDS)


def test_loading_is_bounded_and_holds_up_no_call_to_what_serves(tmp_path: Path, models: Models) -> None:
    put(tmp_path, "served", models.adding(1))
    waiting = [GatedProgram(tmp_path, f"m{place}", 1, gate="load", adds=place) for place in range(AT_ONCE)]
    with (
        explicit(tmp_path) as server,
        connected(server.address) as stub,
        ThreadPoolExecutor(AT_ONCE) as callers,
    ):
        loads = [
            callers.submit(stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=f"m{place}"))
            for place in range(AT_ONCE)
        ]
        for begun in [*range(PARALLEL, AT_ONCE), *[AT_ONCE] * PARALLEL]:
            await_loads(waiting, begun)
            assert asked(stub, "served") == 1
            assert stub.ModelReady(pb.ModelReadyRequest(name="served")).ready
            states = {one.name: one.state for one in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
            assert states["served"] == "READY"
            assert "LOADING" in states.values()
            assert sum(one.loads for one in waiting) == begun, "no more than allowed at a time"
            next(one for one in waiting if one.loads and not one.is_open).open()
        for load in loads:
            load.result(PATIENCE_SECONDS)
        assert [asked(stub, f"m{place}") for place in range(AT_ONCE)] == [*range(AT_ONCE)]


def native_threads() -> set[int]:
    """Return the threads of this process that Python did not start."""
    ours = {thread.native_id for thread in threading.enumerate()}
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()} - ours


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux tells them")
def test_a_model_takes_one_thread_and_tells_its_memory(tmp_path: Path, models: Models) -> None:
    for place in range(NUMBER):
        put(tmp_path, f"m{place}", models.mlp((64, 64 + place, 8), seed=place))
    repository = Repository(RepositoryOptions((tmp_path,), parallel=PARALLEL))
    before, native_before = set(threading.enumerate()), native_threads()
    repository.open()
    repository.load_all()
    engines = [thread for thread in {*threading.enumerate()} - before if thread.name.startswith("engine-m")]
    assert len(engines) == NUMBER
    assert len(native_threads() - native_before) < NUMBER, "sessions have no threads of their own"
    with hosted(Service(repository.catalogue)) as server, connected(server.address) as stub:
        told = {
            one.name: one.memory_usage[0].byte_size
            for one in stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
        }
    for place in range(NUMBER):
        staging = 64 * (64 + 8) * 4
        file = (tmp_path / f"m{place}" / "1" / "model.onnx").stat().st_size
        assert told[f"m{place}"] == file + staging
    assert repository.close(PATIENCE_SECONDS)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_is_told_of_memory_is_about_what_is_taken_and_an_unload_gives_it_back(
    tmp_path: Path, models: Models
) -> None:
    put(tmp_path, "small", models.mlp())
    names = [f"m{place}" for place in range(8)]
    for name in names:
        put(tmp_path, name, models.mlp((1024, 1024, 1024, 8)))
    flags = ["--model-control-mode", "explicit", "--load-model", "small"]
    with ServerProcess(tmp_path, *flags) as server, connected(server.ready()["grpc"]) as stub:
        before = server.memory_bytes()  # a process of its own: no other test's memory is used again
        for name in names:
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))
        told = sum(
            one.memory_usage[0].byte_size
            for one in stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
            if one.name in names
        )
        assert 0.7 < (server.memory_bytes() - before) / told < 1.5
        for name in names:
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name))
        assert (server.memory_bytes() - before) / told < 0.3
