"""Certificates and keys in PEM files, as both ends of a connection read them.

What gRPC says of files that it cannot use names neither the file nor what is wrong with it. So they are
tried here first, by the standard library's OpenSSL.
"""

from __future__ import annotations

import re
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY: Final = re.compile(rb"-----BEGIN (?:\w+ )*PRIVATE KEY-----")
_ENCRYPTED: Final = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")
_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")
_OUT_OF_TIME: Final = {9: "is not valid yet", 10: "has expired"}
"""By OpenSSL's codes X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_MOST_BYTES: Final = 4 << 20
"""Many times what the authorities of a whole system take."""
_TURNS: Final = 4
"""More than a handshake takes."""


class CertificateError(ValueError):
    """A file cannot be used; the text names it and says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A chain of certificates, the own one first, and the key of that one; both PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    problem: str = ""
    """What the other end will refuse it for although it is whole: a time that has not come, or is over."""


def read_identity(certificate_file: Path, key_file: Path, *, of_client: bool = False) -> Identity:
    """Read the certificate that one end shows and the key that proves it. Raises CertificateError."""
    chain = _content(certificate_file)
    certificates = _certificates(chain, certificate_file)
    key = _content(key_file)
    if not _KEY.search(key):
        raise CertificateError(f"{key_file} holds no private key (PEM)")
    if any(mark in key for mark in _ENCRYPTED):
        raise CertificateError(f"the key in {key_file} is encrypted; one without a passphrase is expected")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        for context in (server, client):
            context.load_cert_chain(certificate_file, key_file)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            told = f"the key in {key_file} does not fit the certificate in {certificate_file}"
            raise CertificateError(told) from error
        told = f"the certificate in {certificate_file} with the key in {key_file} cannot be used"
        raise CertificateError(f"{told}: {_reason(error)}") from error
    code = _refusal(server, client, certificates, of_client=of_client)
    problem = f"the certificate in {certificate_file} {_OUT_OF_TIME[code]}" if code in _OUT_OF_TIME else ""
    return Identity(chain, key, problem)


def read_authorities(file: Path) -> bytes:
    """Read the certificates of authorities whose signatures are believed. Raises CertificateError."""
    content = _content(file)
    _certificates(content, file)
    return content


def _content(file: Path) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for without end
            raise CertificateError(f"{file} is not a regular file")
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise CertificateError(f"{file} is larger than {_MOST_BYTES} bytes")
    return content


def _certificates(content: bytes, file: Path) -> str:
    """Return the certificates alone, proved to be some: what stands between them may be in any encoding."""
    found = _CERTIFICATE.findall(content)
    if not found:
        hint = ", but a private key" if _KEY.search(content) else ""
        raise CertificateError(f"{file} holds no certificate (PEM){hint}")
    try:
        certificates = b"\n".join(found).decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(f"a certificate in {file} is damaged: {_reason(error)}") from error
    return certificates


def _refusal(server: ssl.SSLContext, client: ssl.SSLContext, certificates: str, *, of_client: bool) -> int:
    """Let the two ends shake hands in memory; return OpenSSL's code for why one was refused, or 0.

    The certificate is its own authority here: who vouches for it is for the other end to know.
    """
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    judge = server if of_client else client
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    judge.load_verify_locations(cadata=certificates)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for end in ends * _TURNS:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_code
    return 0


def _reason(error: Exception) -> str:
    return getattr(error, "reason", "") or str(error)
