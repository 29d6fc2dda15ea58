"""What a target string means.

10.0.0.5:8001,10.0.0.6:8001          these servers
unix:/run/headrace.sock              the server of this machine that listens at this socket
dns:///inference.example:8001        whatever the name resolves to, followed over time
consul:///inference?model=digits     whoever is registered in Consul, followed as it changes
consul://10.0.0.2:8500/inference     the same, asking this agent
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from headrace.endpoint import joined
from headrace_proto import socket_path

EXPECTED = "expected host:port[,host:port...], unix:path, dns:///host:port or consul:///service"
SCHEMES = ("consul", "dns")
QUERY_KEYS = ("model", "tag")

_HOST = re.compile(r"[^\s:/?#@\[\],]+")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[^\s\]]+)?)\]")


@dataclass(frozen=True, slots=True)
class StaticTarget:
    """Servers named one by one, each as host:port or unix:path."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DnsTarget:
    """Every address of one name."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ConsulTarget:
    """A service in Consul; `agent` is host:port, or "" for the agent of the settings.

    Found are servers that have every one of `tags`, and `model` unless that is "".
    """

    service: str
    agent: str = ""
    tags: tuple[str, ...] = ()
    model: str = ""


Target = StaticTarget | DnsTarget | ConsulTarget


def parse(target: str) -> Target:
    """Return what `target` says; ValueError tells what is wrong with it and what was expected."""
    if not target.strip():
        raise ValueError(f"the target is empty: {EXPECTED}")
    first = target.partition(",")[0].strip()
    if "://" not in first or first.startswith(socket_path.PREFIX):
        return _static(target)
    parts = urlsplit(target)
    if parts.scheme == "consul":
        return _consul(target, parts)
    if parts.scheme == "dns":
        return _dns(target, parts)
    raise ValueError(f"target {target!r}: {_unknown_scheme(parts)}")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of host:port, the host without brackets; ValueError says what is wrong."""
    host, colon, port = address.rpartition(":")
    if not colon or port.endswith("]"):
        raise ValueError(f"{address!r} has no port: expected host:port, such as {address}:8001")
    bracketed = _IPV6.fullmatch(host)
    if not bracketed and ":" in host:
        raise ValueError(f"{address!r}: an IPv6 address is written in brackets, such as [::1]:8001")
    if not bracketed and not _HOST.fullmatch(host):
        raise ValueError(f"{address!r} has no valid host before the port: expected host:port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r}: {port!r} is no port: expected a number between 1 and 65535")
    return (bracketed[1] if bracketed else host), int(port)


def _static(target: str) -> StaticTarget:
    addresses = []
    for address in map(str.strip, target.split(",")):
        if not address:
            raise ValueError(f"target {target!r} has an empty place between its commas: {EXPECTED}")
        if address.startswith(socket_path.PREFIX):
            addresses.append(socket_path.PREFIX + socket_path.parse(address))
            continue
        scheme = address.split(":")[0]
        if scheme in SCHEMES and not address.rpartition(":")[2].isdigit():
            raise ValueError(f"target {target!r}: a {scheme} target begins with {scheme}:///")
        addresses.append(joined(*split_address(address)))
    return StaticTarget(tuple(dict.fromkeys(addresses)))


def _dns(target: str, parts: SplitResult) -> DnsTarget:
    if parts.netloc:
        raise ValueError(
            f"target {target!r}: name servers are the system's own; write three slashes: dns:///{parts.netloc}"
        )
    if parts.query or parts.fragment:
        raise ValueError(f"target {target!r}: a dns target has no query: expected dns:///host:port")
    return DnsTarget(*split_address(parts.path.removeprefix("/")))


def _consul(target: str, parts: SplitResult) -> ConsulTarget:
    service = unquote(parts.path.removeprefix("/"))
    if not service:
        raise ValueError(
            f"target {target!r} names no service: expected consul:///service or consul://agent:8500/service"
        )
    if "/" in service or parts.fragment:
        raise ValueError(f"target {target!r}: a service is one name, without / or #")
    agent = joined(*split_address(parts.netloc)) if parts.netloc else ""
    tags: list[str] = []
    model = ""
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        _check_query(target, key, value)
        if key == "tag":
            tags.append(value)
        elif model:
            raise ValueError(f"target {target!r} asks for two models: a target has one at most")
        else:
            model = value
    return ConsulTarget(service, agent, tuple(tags), model)


def _check_query(target: str, key: str, value: str) -> None:
    if key not in QUERY_KEYS:
        raise ValueError(
            f"target {target!r}: {key!r} is no query key{_near(key, QUERY_KEYS)}: expected tag, model"
        )
    # Consul's filter language has no way to write them.
    if not value or '"' in value or "\\" in value:
        raise ValueError(f'target {target!r}: {key}={value!r}: expected some text without " and \\')


def _unknown_scheme(parts: SplitResult) -> str:
    if parts.scheme in ("http", "https", "grpc", "grpcs", "tcp"):
        return f"an address has no scheme; write {parts.netloc}"
    return f"{parts.scheme!r} is no scheme that is known{_near(parts.scheme, SCHEMES)}: {EXPECTED}"


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
