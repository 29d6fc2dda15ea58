"""The clients before real servers with and without TLS: who is believed, and what is said of the rest."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hosted_server import hosted
from pki import Authority, Issued
from scripted_engines import ScriptedEngine, rows_spec, serving

from headrace import AsyncClient, Client, HeadraceError, Retry, Tls, Unavailable
from headrace.endpoint import Endpoint
from headrace_proto.certificates import CertificateError
from headrace_server.guard.tls import TlsFiles, server_credentials

ONCE = Retry(attempts=1)
INPUTS = {"x": np.ones((1, 1), np.int64)}
PATIENCE_SECONDS = 10.0


@contextmanager
def served(shown: Issued | None, client_ca: Path | None = None, listen: str = "127.0.0.1:0") -> Iterator[str]:
    """Serve with a certificate, or without TLS; give the address."""
    credentials = None
    if shown:
        credentials = functools.partial(server_credentials, TlsFiles(shown.certificate, shown.key, client_ca))
    with (
        serving(ScriptedEngine(rows_spec())) as models,
        hosted(models.service, credentials=credentials, listen=[listen]) as it,
    ):
        yield it.address


@pytest.fixture(scope="module")
def mutual(authority: Authority, for_loopback: Issued) -> Iterator[str]:
    with served(for_loopback, authority.ca) as address:
        yield address


def refusal(address: str, tls: Tls | None) -> str:
    """Return what a client says that cannot get in, by a call and by a stream."""
    with Client(address, tls=tls, retry=ONCE, timeout_seconds=PATIENCE_SECONDS) as client:
        with pytest.raises(Unavailable) as refused:
            client.infer("m", INPUTS)
        ((_, outcome),) = client.stream([(1, INPUTS)], model="m")
    assert isinstance(outcome, Unavailable)
    assert outcome.message == refused.value.message
    return refused.value.message


async def test_both_ends_prove_who_they_are(mutual: str, authority: Authority, for_client: Issued) -> None:
    tls = Tls(authority.ca, for_client.certificate, str(for_client.key))
    with Client(mutual, tls=tls, retry=ONCE) as client:
        assert client.infer("m", INPUTS)
        assert [
            key for key, answer in client.stream([(7, INPUTS)], model="m") if isinstance(answer, dict)
        ] == [7]
    async with AsyncClient(mutual, tls=tls, retry=ONCE) as aio:
        assert await aio.infer("m", INPUTS)
        assert [key async for key, answer in aio.stream([(7, INPUTS)], model="m") if isinstance(answer, dict)]


def test_a_server_that_is_called_by_another_name_than_its_certificates(authority: Authority) -> None:
    with served(authority.issue("named", "subjectAltName=DNS:named.test")) as address:
        told = "the server's certificate is refused: it is not for the host that was called"
        assert refusal(address, Tls(authority.ca)) == told
        with Client(address, tls=Tls(authority.ca, server_name="named.test"), retry=ONCE) as client:
            assert client.ready()


Make = Callable[[Authority, Authority, Issued], Tls | None]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda ours, theirs, mine: Tls(theirs.ca, mine.certificate, mine.key),
            "no authority that this client",
        ),
        (lambda ours, theirs, mine: Tls(), "no authority that this client trusts has issued it"),
        (lambda ours, theirs, mine: Tls(ours.ca), "only clients with a certificate that it trusts"),
        (lambda ours, theirs, mine: None, "it may speak TLS alone, and this client does not"),
    ],
    ids=["another authority", "the system's", "no certificate", "no TLS"],
)
async def test_who_does_not_get_in_is_told_what_may_be_wrong(
    mutual: str, authority: Authority, stranger: Authority, for_client: Issued, make: Make, told: str
) -> None:
    tls = make(authority, stranger, for_client)
    assert told in refusal(mutual, tls)
    async with AsyncClient(mutual, tls=tls, retry=ONCE, timeout_seconds=PATIENCE_SECONDS) as aio:
        with pytest.raises(Unavailable, match=told):
            await aio.infer("m", INPUTS)
        async for _, outcome in aio.stream([(1, INPUTS)], model="m"):
            assert isinstance(outcome, HeadraceError)
            assert told in outcome.message


@pytest.mark.parametrize("when", ["expired", "not_yet_valid"])
def test_a_servers_certificate_out_of_its_time(authority: Authority, when: str) -> None:
    shown = getattr(authority, when)(f"server-{when}", "subjectAltName=IP:127.0.0.1")
    told = {"expired": "it has expired", "not_yet_valid": "it is not valid yet"}[when]
    with served(shown) as address:
        assert refusal(address, Tls(authority.ca)) == f"the server's certificate is refused: {told}"


def test_a_server_without_tls_gets_nothing_from_a_client_that_wants_it(authority: Authority) -> None:
    with served(None) as address:
        assert refusal(address, Tls(authority.ca)).startswith("the server does not speak TLS")


def test_files_that_cannot_be_used_are_named_before_anything_is_sent(
    authority: Authority, for_client: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for tls, told in (
        (Tls(tmp_path / "none.pem"), r"none\.pem cannot be read: No such file or directory"),
        (Tls(for_client.key), r"client\.key holds no certificate \(PEM\), but a private key"),
        (Tls(authority.ca, for_client.certificate, authority.issue("other").key), "does not fit"),
    ):
        for kind in (Client, AsyncClient):
            with pytest.raises(CertificateError, match=told):
                kind("127.0.0.1:1", tls=tls)
    old = authority.expired("client-old", "extendedKeyUsage=clientAuth")
    Client("127.0.0.1:1", tls=Tls(authority.ca, old.certificate, old.key)).close()
    assert f"{old.certificate} has expired: servers will refuse it" in caplog.text


class Registry:
    """A look-up that tells one server, as a registry has it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def watch(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        yield (self._endpoint,)


async def test_a_server_registered_with_tls_is_never_spoken_to_without(
    authority: Authority, for_loopback: Issued
) -> None:
    with served(for_loopback) as address:
        entry = Endpoint(address, meta={"tls": "1"})
        with Client(Registry(entry), tls=Tls(authority.ca), retry=ONCE) as client:
            assert client.ready()
        with Client(Registry(entry), retry=ONCE) as client, pytest.raises(Unavailable, match="no authority"):
            client.metadata("m")
        async with AsyncClient(Registry(entry), retry=ONCE) as aio:
            with pytest.raises(Unavailable, match="no authority that this client trusts has issued it"):
                await aio.metadata("m")
        with Client(Registry(Endpoint(address, meta={"tls": "0"})), tls=Tls(authority.ca)) as client:
            assert client.ready(), "what the caller chose is not undone by the registry"


def test_a_certificate_is_for_the_name_that_was_resolved(authority: Authority) -> None:
    with served(authority.issue("resolved", "subjectAltName=DNS:localhost")) as address:
        target = f"dns:///localhost:{address.rpartition(':')[2]}"
        with Client(target, tls=Tls(authority.ca), retry=Retry(backoff_seconds=0.01)) as client:
            assert client.infer("m", INPUTS)
        told = "the server's certificate is refused: it is not for the host that was called"
        assert refusal(address, Tls(authority.ca)) == told


@pytest.mark.parametrize("secure", [False, True])
async def test_a_socket_of_this_machine(authority: Authority, tmp_path: Path, secure: bool) -> None:
    shown = authority.issue("socket", "subjectAltName=DNS:localhost") if secure else None
    tls = Tls(authority.ca) if secure else None
    with served(shown, listen=f"unix:{tmp_path}/it.sock") as address:
        assert address == f"unix:{tmp_path}/it.sock"
        with Client(address, tls=tls, retry=ONCE) as client:
            assert client.infer("m", INPUTS)
        async with AsyncClient(f"unix://{tmp_path}/it.sock", tls=tls, retry=ONCE) as aio:
            assert await aio.infer("m", INPUTS)
