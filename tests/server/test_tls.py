"""TLS as clients meet it: who gets in, who is refused, and what renewed files do."""

from __future__ import annotations

import functools
import logging
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import grpc
import pytest
from hosted_server import hosted
from pki import Authority, Issued
from scripted_engines import ScriptedEngine, rows_spec, serving

from headrace_proto.certificates import CertificateError, read_authorities
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.guard import tls
from headrace_server.guard.tls import TlsFiles, server_credentials

Code = grpc.StatusCode

PATIENCE_SECONDS = 10.0


@contextmanager
def secure_at(listen: list[str], shown: Issued, client_ca: Path | None = None) -> Iterator[list[str]]:
    """Serve with a certificate at several addresses while the block runs; give them."""
    files = TlsFiles(shown.certificate, shown.key, client_ca)
    credentials = functools.partial(server_credentials, files)
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, credentials=credentials, listen=listen) as it,
    ):
        yield it.addresses


@contextmanager
def secure(shown: Issued, client_ca: Path | None = None) -> Iterator[str]:
    """Serve with a certificate while the block runs; give the address."""
    with secure_at(["127.0.0.1:0"], shown, client_ca) as addresses:
        yield addresses[0]


def outcome(address: str, ca: Path | None, shown: Issued | None = None, name: str = "") -> Code:
    """Return how a call ends by a client that believes `ca`, shows a certificate and expects a name."""
    options: list[tuple[str, str | int]] = [("grpc.use_local_subchannel_pool", 1)]
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    if ca is None:
        channel = grpc.insecure_channel(address, options)
    else:
        pair = (shown.key.read_bytes(), shown.certificate.read_bytes()) if shown else (None, None)
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes(), *pair), options)
    with channel:
        try:
            InferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_SECONDS)
        except grpc.RpcError as error:
            return error.code()
        return Code.OK


def shown_by(address: str) -> bytes:
    """Return the certificate that a new connection is shown, in PEM's lines."""
    host, port = address.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), PATIENCE_SECONDS) as plain,
        context.wrap_socket(plain) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
        assert der
        return ssl.DER_cert_to_PEM_cert(der).encode()


@pytest.fixture(scope="module")
def plain_tls(for_loopback: Issued) -> Iterator[str]:
    with secure(for_loopback) as address:
        yield address


@pytest.fixture(scope="module")
def mutual(authority: Authority, for_loopback: Issued) -> Iterator[str]:
    with secure(for_loopback, authority.ca) as address:
        yield address


def test_a_client_that_believes_the_authority_is_answered(plain_tls: str, authority: Authority) -> None:
    assert outcome(plain_tls, authority.ca) is Code.OK
    assert outcome(plain_tls, authority.ca, name="headrace.test") is Code.OK


def test_a_client_that_has_reason_to_doubt_refuses(
    plain_tls: str, authority: Authority, stranger: Authority
) -> None:
    assert outcome(plain_tls, stranger.ca) is Code.UNAVAILABLE
    assert outcome(plain_tls, authority.ca, name="other.test") is Code.UNAVAILABLE
    assert outcome(plain_tls, None) is Code.UNAVAILABLE


def test_a_certificate_that_has_expired_is_served_with_a_warning_and_refused(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    old = authority.expired("server-old", "subjectAltName=IP:127.0.0.1")
    with secure(old) as address:
        assert outcome(address, authority.ca) is Code.UNAVAILABLE
    assert f"{old.certificate} has expired: clients will refuse it" in caplog.text


def test_a_client_with_a_certificate_of_the_authority_gets_in(
    mutual: str, authority: Authority, for_client: Issued
) -> None:
    assert outcome(mutual, authority.ca, for_client) is Code.OK


@pytest.mark.parametrize("shown", ["none", "a stranger's", "an expired one"])
def test_a_client_without_one_stays_outside(
    mutual: str, authority: Authority, stranger: Authority, shown: str
) -> None:
    issued = {
        "none": lambda: None,
        "a stranger's": lambda: stranger.issue("client", "extendedKeyUsage=clientAuth"),
        "an expired one": lambda: authority.expired("client-old", "extendedKeyUsage=clientAuth"),
    }[shown]()
    assert outcome(mutual, authority.ca, issued) is Code.UNAVAILABLE


def test_files_that_are_renewed_are_shown_to_new_connections_and_broken_ones_are_not(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = "subjectAltName=IP:127.0.0.1"
    first, second = authority.issue("first", names), authority.issue("second", names)
    shown = Issued(tmp_path / "tls.pem", tmp_path / "tls.key")
    first.copy_to(shown)
    with secure(shown) as address:
        assert shown_by(address) == first.certificate.read_bytes()
        second.copy_to(shown)
        assert shown_by(address) == second.certificate.read_bytes()
        assert f"the certificate in {shown.certificate} was renewed" in caplog.text
        shown.certificate.write_bytes(b"half of a")
        assert shown_by(address) == second.certificate.read_bytes()
        shown.certificate.unlink()
        assert shown_by(address) == second.certificate.read_bytes()
        first.copy_to(shown)
        assert shown_by(address) == first.certificate.read_bytes()
    ours = [record for record in caplog.records if record.name.startswith("headrace")]
    complaints = [record.message for record in ours if record.levelno == logging.ERROR]
    assert [re.sub(r".*tls.pem", "tls.pem", complaint) for complaint in complaints] == [
        "tls.pem holds no certificate (PEM); the certificate read before stays in use",
        "tls.pem cannot be read: No such file or directory; the certificate read before stays in use",
    ]


def test_files_that_change_while_they_are_read_are_read_again(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "subjectAltName=IP:127.0.0.1"
    first, second = authority.issue("read-first", names), authority.issue("read-again", names)
    shown = Issued(tmp_path / "tls.pem", tmp_path / "tls.key")
    first.copy_to(shown)

    def change_and_read(file: Path) -> bytes:
        second.copy_to(shown)  # the certificate has been read
        return read_authorities(file)

    with monkeypatch.context() as patch:
        patch.setattr(tls, "read_authorities", change_and_read)
        credentials = server_credentials(TlsFiles(shown.certificate, shown.key, authority.ca))
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, credentials=lambda: credentials) as it,
    ):
        assert shown_by(it.address) == second.certificate.read_bytes()


def test_every_address_has_the_certificate_and_its_renewals(authority: Authority, tmp_path: Path) -> None:
    names = "subjectAltName=IP:127.0.0.1,DNS:headrace.test"
    shown = Issued(tmp_path / "tls.pem", tmp_path / "tls.key")
    authority.expired("old-everywhere", names).copy_to(shown)
    listen = ["127.0.0.1:0", "127.0.0.1:0", f"unix:{tmp_path}/it.sock"]
    with secure_at(listen, shown) as addresses:
        for address in addresses:
            assert outcome(address, authority.ca, name="headrace.test") is Code.UNAVAILABLE
        authority.issue("new-everywhere", names).copy_to(shown)
        for address in addresses:
            assert outcome(address, authority.ca, name="headrace.test") is Code.OK


@pytest.mark.parametrize(
    ("version", "spoken"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_versions_of_tls_before_1_2_are_refused(
    plain_tls: str, version: ssl.TLSVersion, spoken: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else this end would not offer the old ones
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, port = plain_tls.rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as plain:
        if spoken:
            with context.wrap_socket(plain) as connection:
                assert connection.selected_alpn_protocol() == "h2"
        else:
            with pytest.raises(ssl.SSLError, match="EOF occurred"):
                context.wrap_socket(plain)


def test_open_connections_go_on_while_certificates_are_renewed(authority: Authority, tmp_path: Path) -> None:
    shown = Issued(tmp_path / "tls.pem", tmp_path / "tls.key")
    authority.issue("before", "subjectAltName=IP:127.0.0.1").copy_to(shown)
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    with secure(shown) as address, grpc.secure_channel(address, credentials) as channel:
        stub = InferenceServiceStub(channel)
        requests = iter(Queue().get, None)  # a stream that stays open
        stream = stub.ModelStreamInfer(requests)
        for renewal in range(3):
            assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_SECONDS).live
            authority.issue(f"renewal-{renewal}", "subjectAltName=IP:127.0.0.1").copy_to(shown)
            assert outcome(address, authority.ca) is Code.OK
        shown.key.unlink()
        assert outcome(address, authority.ca) is Code.OK
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_SECONDS).live
        assert stream.is_active()
        stream.cancel()


def test_authorities_of_clients_are_renewed_as_well(
    authority: Authority, stranger: Authority, for_loopback: Issued, tmp_path: Path
) -> None:
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(authority.ca.read_bytes())
    theirs = stranger.issue("late", "extendedKeyUsage=clientAuth")
    with secure(for_loopback, client_ca) as address:
        assert outcome(address, authority.ca, theirs) is Code.UNAVAILABLE
        client_ca.write_bytes(authority.ca.read_bytes() + stranger.ca.read_bytes())
        assert outcome(address, authority.ca, theirs) is Code.OK


def test_files_that_cannot_be_used_at_the_start_are_an_error(
    authority: Authority, for_loopback: Issued, tmp_path: Path
) -> None:
    for files in (
        TlsFiles(tmp_path / "none", for_loopback.key),
        TlsFiles(for_loopback.certificate, authority.issue("other").key),
        TlsFiles(for_loopback.certificate, for_loopback.key, for_loopback.key),
    ):
        with pytest.raises(CertificateError):
            server_credentials(files)
