from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pki import Authority, Issued

from headrace_proto.certificates import CertificateError, read_authorities, read_identity


def test_a_certificate_and_its_key_are_read_whole(for_loopback: Issued) -> None:
    identity = read_identity(for_loopback.certificate, for_loopback.key)
    assert identity.chain == for_loopback.certificate.read_bytes()
    assert identity.key == for_loopback.key.read_bytes()
    assert identity.problem == ""
    assert "PRIVATE KEY" not in repr(identity)


@pytest.mark.parametrize("of_client", [False, True])
def test_a_certificate_for_the_other_end_alone_is_no_matter_here(
    authority: Authority, for_client: Issued, of_client: bool
) -> None:
    assert read_identity(for_client.certificate, for_client.key, of_client=of_client).problem == ""


@pytest.mark.parametrize("of_client", [False, True])
def test_a_certificate_out_of_its_time_is_read_and_told(authority: Authority, of_client: bool) -> None:
    usage = "extendedKeyUsage=" + ("clientAuth" if of_client else "serverAuth")
    for issued, told in (
        (authority.expired(f"old-{of_client}", usage), "has expired"),
        (authority.not_yet_valid(f"early-{of_client}", usage), "is not valid yet"),
    ):
        problem = read_identity(issued.certificate, issued.key, of_client=of_client).problem
        assert problem == f"the certificate in {issued.certificate} {told}"


def test_a_chain_is_shown_whole_and_judged_by_its_first(
    authority: Authority, for_loopback: Issued, tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"R\xc3\xa9my's\n" + for_loopback.certificate.read_bytes() + authority.ca.read_bytes())
    identity = read_identity(chain, for_loopback.key)
    assert identity.chain == chain.read_bytes()
    assert identity.problem == ""


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_regular_file_is_not_opened(for_loopback: Issued, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd"
    make = {
        "device": lambda: path.symlink_to("/dev/zero"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    for read in (
        lambda: read_authorities(path),
        lambda: read_identity(path, for_loopback.key),
        lambda: read_identity(for_loopback.certificate, path),
    ):
        with pytest.raises(CertificateError, match=f"^{path} is not a regular file$"):
            read()


def test_a_file_is_not_read_without_end(for_loopback: Issued, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(for_loopback.certificate.read_bytes())
    os.truncate(path, (4 << 20) + 1)
    with pytest.raises(CertificateError, match=f"^{path} is larger than 4194304 bytes$"):
        read_authorities(path)


def damaged(certificate: bytes) -> bytes:
    lines = certificate.splitlines(keepends=True)
    return b"".join([lines[0], lines[2], *lines[1:]])


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        (None, bytes, "certificate cannot be read: No such file or directory"),
        (bytes, None, "key cannot be read: No such file or directory"),
        (lambda _: b"", bytes, "certificate holds no certificate (PEM)"),
        (
            lambda _: b"-----BEGIN RSA PRIVATE KEY-----",
            bytes,
            "certificate holds no certificate (PEM), but a private key",
        ),
        (damaged, bytes, "a certificate in certificate is damaged: "),
        (bytes, lambda _: b"", "key holds no private key (PEM)"),
        (
            bytes,
            lambda _: b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
            "the key in key is encrypted; one without a passphrase is expected",
        ),
        (
            bytes,
            lambda key: key.splitlines(keepends=True)[0] + b"MIGH\n" + key.splitlines(keepends=True)[-1],
            "the certificate in certificate with the key in key cannot be used: ",
        ),
    ],
)
def test_what_cannot_be_used_is_told_with_the_name_of_the_file(
    for_loopback: Issued,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: Callable[[bytes], bytes] | None,
    key: Callable[[bytes], bytes] | None,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if certificate:
        Path("certificate").write_bytes(certificate(for_loopback.certificate.read_bytes()))
    if key:
        Path("key").write_bytes(key(for_loopback.key.read_bytes()))
    with pytest.raises(CertificateError, match=f"^{re.escape(told)}"):
        read_identity(Path("certificate"), Path("key"))


def test_a_key_of_another_certificate_is_told(for_loopback: Issued, for_client: Issued) -> None:
    with pytest.raises(CertificateError) as refused:
        read_identity(for_loopback.certificate, for_client.key)
    assert str(refused.value) == (
        f"the key in {for_client.key} does not fit the certificate in {for_loopback.certificate}"
    )


def test_authorities_are_read_and_what_is_none_is_told(authority: Authority, for_loopback: Issued) -> None:
    assert read_authorities(authority.ca) == authority.ca.read_bytes()
    with pytest.raises(CertificateError, match="holds no certificate"):
        read_authorities(for_loopback.key)
