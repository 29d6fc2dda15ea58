"""Certificates made for the tests that need them, by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_CONFIGURATION = """
[ca]
default_ca = tests
[tests]
database = index.txt
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
"""
_NOW = ("20200101000000Z", "20991231000000Z")
_PAST = ("20200101000000Z", "20210101000000Z")
_FUTURE = ("20900101000000Z", "20991231000000Z")


@dataclass(frozen=True, slots=True)
class Issued:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path

    def copy_to(self, other: Issued) -> None:
        """Put these in the place of others, as a renewal does: the key first, and each in one step."""
        for mine, theirs in ((self.key, other.key), (self.certificate, other.certificate)):
            fresh = theirs.with_suffix(".new")
            shutil.copy(mine, fresh)
            fresh.rename(theirs)


class Authority:
    """A certificate authority in a folder of its own; `ca` is its certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.ca = folder / "ca.pem"
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "openssl.cnf").write_text(_CONFIGURATION)
        self._openssl(
            "req", "-x509", "-new", *self._new_key("ca"), "-subj", "/CN=Tests", "-days", "2",
            "-addext", "basicConstraints=critical,CA:TRUE", "-out", "ca.pem",
        )  # fmt: skip

    def issue(self, name: str, *extensions: str, when: tuple[str, str] = _NOW) -> Issued:
        """Make a certificate; `extensions` are openssl's, such as subjectAltName=DNS:a.test."""
        added = [word for extension in extensions for word in ("-addext", extension)]
        self._openssl(
            "req", "-new", *self._new_key(name), "-subj", f"/CN={name}", *added, "-out", f"{name}.csr"
        )
        self._openssl(
            "ca", "-batch", "-notext", "-cert", "ca.pem", "-keyfile", "ca.key", "-in", f"{name}.csr",
            "-startdate", when[0], "-enddate", when[1], "-out", f"{name}.pem",
        )  # fmt: skip
        return Issued(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def expired(self, name: str, *extensions: str) -> Issued:
        """Make a certificate whose time is over."""
        return self.issue(name, *extensions, when=_PAST)

    def not_yet_valid(self, name: str, *extensions: str) -> Issued:
        """Make a certificate whose time has not come."""
        return self.issue(name, *extensions, when=_FUTURE)

    def _new_key(self, name: str) -> list[str]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        return [*curve, "-nodes", "-keyout", f"{name}.key"]

    def _openssl(self, command: str, *arguments: str) -> None:
        found = shutil.which("openssl")
        if found is None:
            pytest.skip("openssl makes the certificates for this test, and it is not installed")
        configured = [found, command, "-config", "openssl.cnf", *arguments]
        done = subprocess.run(configured, cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that both ends of most tests believe."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another one, of the same name."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def for_loopback(authority: Authority) -> Issued:
    """A server's certificate for this machine's own addresses."""
    return authority.issue("server", "subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:headrace.test")


@pytest.fixture(scope="session")
def for_client(authority: Authority) -> Issued:
    """A client's certificate."""
    return authority.issue("client", "extendedKeyUsage=clientAuth")
