"""Clients that others wrote, over TLS with certificates on both ends, each by its own options."""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oip.case import Server
from pki import Authority, Issued
from server_process import ServerProcess
from write_repository import write

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: no Triton client")
import triton_calls as calls  # noqa: E402  # only where it is installed
import tritonclient.grpc.aio as awaited  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def secured(
    authority: Authority, for_loopback: Issued, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where a server listens that wants to see a certificate of the authority."""
    folder = tmp_path_factory.mktemp("secured")
    flags = write(folder, Server.CLOSED)[1:]
    certificates = [
        f"--tls-cert={for_loopback.certificate}",
        f"--tls-key={for_loopback.key}",
        f"--tls-client-ca={authority.ca}",
    ]
    with ServerProcess(folder, *flags, *certificates) as process:
        yield str(process.ready()["grpc"])


@pytest.fixture
def shown(authority: Authority, for_client: Issued) -> dict[str, Any]:
    """The options of both of Triton's clients."""
    return {
        "ssl": True,
        "root_certificates": str(authority.ca),
        "private_key": str(for_client.key),
        "certificate_chain": str(for_client.certificate),
    }


def test_calls_that_wait(secured: str, shown: dict[str, Any]) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(secured, **shown) as client:
        assert client.infer("simple", calls.pair()).as_numpy("OUTPUT0").tolist() == (2 * calls.ROWS).tolist()
        client.start_stream(lambda result, error: heard.put((result, error)))
        client.async_stream_infer("simple", calls.pair(), request_id="7")
        result, error = heard.get(timeout=PATIENCE_SECONDS)
        client.stop_stream()
    assert (error, result.get_response().id) == (None, "7")


async def test_calls_that_are_awaited(secured: str, shown: dict[str, Any]) -> None:
    async with awaited.InferenceServerClient(secured, **shown) as client:
        result = await client.infer("simple", calls.pair())
    assert result.as_numpy("OUTPUT0").tolist() == (2 * calls.ROWS).tolist()


def test_who_shows_no_certificate_stays_outside(secured: str, authority: Authority) -> None:
    options = {"ssl": True, "root_certificates": str(authority.ca)}
    with (
        triton.InferenceServerClient(secured, **options) as client,
        pytest.raises(InferenceServerException) as refused,
    ):
        client.infer("simple", calls.pair())
    assert refused.value.status() == "StatusCode.UNAVAILABLE"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--concurrency-range=2", "--streaming"])
def test_perf_analyzer(
    perf_analyzer: str, secured: str, authority: Authority, for_client: Issued, mode: str, tmp_path: Path
) -> None:
    command = [
        perf_analyzer, "-i", "grpc", "-u", secured, "-m", "simple", mode,
        "--measurement-interval=400", "--max-trials=20", "--stability-percentage=999",
        "--ssl-grpc-use-ssl", f"--ssl-grpc-root-certifications-file={authority.ca}",
        f"--ssl-grpc-private-key-file={for_client.key}",
        f"--ssl-grpc-certificate-chain-file={for_client.certificate}",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "throughput: " in done.stdout


@pytest.mark.slow
def test_grpcurl(grpcurl: str, secured: str, authority: Authority, for_client: Issued) -> None:
    certificates = ["-cacert", authority.ca, "-cert", for_client.certificate, "-key", for_client.key]
    command = [grpcurl, *certificates, secured, "inference.GRPCInferenceService/ServerReady"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    assert '"ready": true' in done.stdout
