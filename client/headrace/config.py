"""Settings: what the caller chose, and what the environment says.

This is the one module of the client that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Retry:
    """When a call that failed is tried again.

    Only failures that another attempt can mend are tried again (the server is away, is stopping, is
    overloaded, or its engine failed). That repeats the prediction, which is harmless as long as a
    model keeps no state: for one that does, use `Retry(attempts=1)`, which never sends anything twice.

    The budget keeps retries from multiplying the load when everything is down: each call adds
    `budget_ratio` to it, each retry takes 1 from it, and it holds `budget_burst` at most, which is
    also what it starts with.
    """

    attempts: int = 3
    backoff_seconds: float = 0.05
    max_backoff_seconds: float = 1.0
    budget_ratio: float = 0.2
    budget_burst: int = 100

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(
                f"attempts counts the first try as well: {self.attempts} came, at least 1 expected"
            )
        for name in ("backoff_seconds", "max_backoff_seconds", "budget_ratio", "budget_burst"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: {getattr(self, name)} came, 0 or more expected")


DEFAULT_RETRY: Final = Retry()
DEFAULT_TIMEOUT_SECONDS: Final = 30.0
LONGEST_TIMEOUT_SECONDS: Final = 365 * 24 * 3600.0
"""What is longer is no limit: gRPC takes a time that it cannot count for one that is over."""
DEFAULT_KEEPALIVE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Tls:
    """How to prove who is at the other end, and who is at this one.

    Every file is PEM, and read once, when the client is made. Without `ca_file` the system's authorities
    are trusted; `certificate_file` and `key_file` go together and are for servers that ask their clients
    for a certificate; `server_name` is the name that the server's certificate must be for, by default the
    host that is called, and `localhost` at a Unix socket.
    """

    ca_file: Path | str | None = None
    certificate_file: Path | str | None = None
    key_file: Path | str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError(
                "a client certificate needs its key: give certificate_file and key_file, or neither"
            )


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client was told, checked once."""

    timeout_seconds: float | None = DEFAULT_TIMEOUT_SECONDS
    retry: Retry = DEFAULT_RETRY
    tls: Tls | None = None
    keepalive_seconds: float | None = DEFAULT_KEEPALIVE_SECONDS

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "keepalive_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: {value} came, a positive number or None expected")
        if not isinstance(self.retry, Retry):
            raise TypeError(f"retry: {type(self.retry).__name__} came, headrace.Retry expected")
        if not (self.tls is None or isinstance(self.tls, Tls)):
            raise TypeError(f"tls: {type(self.tls).__name__} came, headrace.Tls or None expected")

    def timeout_of_call(self, timeout_seconds: float | None) -> float | None:
        """Return the time one call has, given what its caller asked for: None takes the client's.

        What is returned is None where there is no limit.
        """
        asked = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        if asked is None:
            return None
        if not asked > 0:
            raise ValueError(f"timeout_seconds: {asked} came, a positive number expected")
        return asked if asked <= LONGEST_TIMEOUT_SECONDS else None


@dataclass(frozen=True, slots=True)
class ConsulSettings:
    """Where the Consul agent is and how to speak to it, from the variables that Consul's own tools read."""

    address: str = "127.0.0.1:8500"
    token: str = field(default="", repr=False)
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    namespace: str = ""


def consul_settings(environment: Mapping[str, str] | None = None) -> ConsulSettings:
    """Return Consul's settings; a variable that is unset or empty leaves its default."""
    variables = os.environ if environment is None else environment
    return ConsulSettings(
        address=variables.get("CONSUL_HTTP_ADDR") or ConsulSettings().address,
        token=variables.get("CONSUL_HTTP_TOKEN", ""),
        ca_file=variables.get("CONSUL_CACERT", ""),
        certificate_file=variables.get("CONSUL_CLIENT_CERT", ""),
        key_file=variables.get("CONSUL_CLIENT_KEY", ""),
        namespace=variables.get("CONSUL_NAMESPACE", ""),
    )
