"""The server's side of TLS: its certificate, and whose clients are let in, renewed as the files are.

gRPC asks before each handshake. The files are looked at then, and read when one of them has changed; what
cannot be used is told in the log, and what was read before stays in use. Open connections keep what they
began with.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from headrace_proto.certificates import CertificateError, read_authorities, read_identity

_logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files, in PEM; with `client_ca` only clients with a certificate of those authorities get in."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials for gRPC that follow the files. Raises CertificateError."""
    stamp = _stamp(files)  # before reading: files that change meanwhile are read again
    configuration = _read(files)
    return grpc.dynamic_ssl_server_credentials(
        configuration,
        _Renewal(files, stamp).renewed,  # type: ignore[arg-type]  # None is documented as "no change"
        require_client_authentication=files.client_ca is not None,
    )


class _Renewal:
    """Sees that files have changed; called from gRPC's threads."""

    def __init__(self, files: TlsFiles, stamp: _Stamp) -> None:
        self._files = files
        self._seen = stamp
        self._lock = threading.Lock()

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files hold now, or None to go on with what they held before."""
        stamp = _stamp(self._files)
        with self._lock:
            if stamp == self._seen:
                return None
            self._seen = stamp
        try:
            configuration = _read(self._files)
        except CertificateError as error:
            _logger.error("%s; the certificate read before stays in use", error)  # noqa: TRY400  # the text says it all
            return None
        _logger.info("the certificate in %s was renewed", self._files.certificate)
        return configuration


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    identity = read_identity(files.certificate, files.key)
    if identity.problem:
        _logger.warning("%s: clients will refuse it", identity.problem)
    authorities = read_authorities(files.client_ca) if files.client_ca else None
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain)], authorities)


def _stamp(files: TlsFiles) -> _Stamp:
    """Return what changes when a file is replaced or written."""
    return tuple(_file_stamp(file) for file in (files.certificate, files.key, files.client_ca) if file)


def _file_stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
