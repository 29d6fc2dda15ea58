from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from fake_servers import FakeServer

import headrace
from headrace import AsyncClient, Client, Retry, Tls
from headrace.channels import channel_options
from headrace.config import Settings
from headrace_proto.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

ONCE = Retry(attempts=1)
INPUTS = {"x": np.ones((1, 2))}


@pytest.mark.parametrize(
    ("address", "proxied"),
    [
        ("127.0.0.1:1", False),
        ("127.8.8.8:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("unix:/tmp/x", False),
        ("10.0.0.1:1", True),
        ("example.org:1", True),
    ],
)
def test_no_proxy_on_this_machine(address: str, proxied: bool) -> None:
    options = dict(channel_options(address, Settings()))
    assert options.get("grpc.enable_http_proxy", 1) == int(proxied)


def test_pings_are_a_choice() -> None:
    assert dict(channel_options("h:1", Settings(keepalive_seconds=0.5)))["grpc.keepalive_time_ms"] == 500
    assert not [
        name
        for name, _ in channel_options("h:1", Settings(keepalive_seconds=None))
        if "keepalive" in name or "ping" in name
    ]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for the name headrace.test, which is its own authority, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate for this test, and it is not installed")
    folder = tmp_path_factory.mktemp("pki")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=headrace.test", "-addext", "subjectAltName=DNS:headrace.test"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def secure_address(pki: Path) -> Iterator[str]:
    """A server that shows its certificate and asks its clients for theirs."""
    key, certificate = (pki / "key.pem").read_bytes(), (pki / "cert.pem").read_bytes()
    server = grpc.server(ThreadPoolExecutor(4))
    add_InferenceServiceServicer_to_server(FakeServer(), server)
    credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait(5)


async def test_both_ends_prove_who_they_are(pki: Path, secure_address: str) -> None:
    tls = Tls(pki / "cert.pem", pki / "cert.pem", pki / "key.pem", server_name="headrace.test")
    with Client(secure_address, tls=tls, retry=ONCE) as client:
        assert client.infer("m", INPUTS)["x"].tolist() == [[1, 1]]
    async with AsyncClient(secure_address, tls=tls, retry=ONCE) as aio:
        assert (await aio.infer("m", INPUTS))["x"].tolist() == [[1, 1]]


@pytest.mark.parametrize("tls", [None, "no certificate", "another name"])
def test_whoever_does_not_is_refused(pki: Path, secure_address: str, tls: str | None) -> None:
    choices = {
        None: None,
        "no certificate": Tls(pki / "cert.pem", server_name="headrace.test"),
        "another name": Tls(pki / "cert.pem", pki / "cert.pem", pki / "key.pem", server_name="other.test"),
    }
    client = Client(secure_address, tls=choices[tls], retry=ONCE, timeout_seconds=5)
    with client, pytest.raises(headrace.Unavailable):
        client.infer("m", INPUTS)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        Client("127.0.0.1:1", tls=Tls(tmp_path / "nowhere.pem"))
