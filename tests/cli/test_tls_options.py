from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosted_server import hosted
from pki import Authority, Issued
from scripted_engines import ScriptedEngine, rows_spec, serving

from headrace_cli.main import run
from headrace_server.guard.tls import TlsFiles, server_credentials

INPUTS = ["--input", "[[1]]"]


@pytest.fixture(scope="module")
def addresses(
    authority: Authority, for_loopback: Issued, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """A port and a socket of a server that asks for certificates."""
    files = TlsFiles(for_loopback.certificate, for_loopback.key, authority.ca)
    listen = ["127.0.0.1:0", f"unix:{tmp_path_factory.mktemp('socket')}/it.sock"]
    credentials = functools.partial(server_credentials, files)
    with (
        serving(ScriptedEngine(rows_spec())) as served,
        hosted(served.service, credentials=credentials, listen=listen) as it,
    ):
        yield it.addresses


def flags(authority: Authority, shown: Issued) -> list[str]:
    certificate = ["--tls-cert", str(shown.certificate), "--tls-key", str(shown.key)]
    return ["--tls-ca", str(authority.ca), *certificate]


@pytest.mark.parametrize("command", ["call", "stream"])
def test_who_shows_a_certificate_is_answered_at_every_address(
    command: str,
    addresses: list[str],
    authority: Authority,
    for_client: Issued,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for address in addresses:
        assert run([command, address, "m", *INPUTS, *flags(authority, for_client)]) == 0
        assert "4" in capsys.readouterr().out


def test_who_does_not_is_told_in_a_line(
    addresses: list[str], authority: Authority, for_client: Issued, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = flags(authority, for_client)[2:]
    wrong_name = [*flags(authority, for_client), "--tls-server-name", "other.test"]
    for given, code, told in (
        ([], 1, "it may speak TLS alone, and this client does not"),
        (["--tls", *certificate], 1, "no authority that this client trusts has issued it"),
        (["--tls-ca", str(authority.ca)], 1, "only clients with a certificate that it trusts"),
        (wrong_name, 1, "it is not for the host that was called"),
        (["--tls-ca", "none.pem"], 2, "none.pem cannot be read: No such file or directory"),
        (certificate[:2], 2, "--tls-cert and --tls-key belong together; only one is set"),
    ):
        assert run(["call", addresses[0], "m", *INPUTS, *given]) == code
        assert told in capsys.readouterr().err


def test_a_server_without_tls_gets_nothing(capsys: pytest.CaptureFixture[str], authority: Authority) -> None:
    with serving(ScriptedEngine(rows_spec())) as served, hosted(served.service) as plain:
        assert run(["call", plain.address, "m", *INPUTS]) == 0
        assert run(["call", plain.address, "m", *INPUTS, "--tls-ca", str(authority.ca)]) == 1
    assert "the server does not speak TLS" in capsys.readouterr().err


def test_a_key_of_another_certificate(
    tmp_path: Path, authority: Authority, for_client: Issued, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = Issued(for_client.certificate, authority.issue("other").key)
    assert run(["call", "127.0.0.1:1", "m", *INPUTS, *flags(authority, mixed)]) == 2
    assert "does not fit the certificate in" in capsys.readouterr().err
