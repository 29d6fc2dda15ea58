"""A server's entry in Consul's words.

Consul refuses a registration as a whole for one unknown field, one metadata key with a character
outside A-Z a-z 0-9 _ -, one value over 512 bytes, or a 65th key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from headrace_proto.consul import model_key
from headrace_proto.names import TRITON_SERVICE
from headrace_server.discovery.registry import Check, ServiceEntry

MAX_META_KEYS = 64
MAX_META_VALUE_BYTES = 512

GRPC_CHECK_INTERVAL_SECONDS = 2
GRPC_CHECK_TIMEOUT_SECONDS = 1
REAP_AFTER = "1m"
"""How long an entry may be critical before the agent removes it; Consul's own floor."""


def registration(entry: ServiceEntry) -> dict[str, Any]:
    """Return the arguments of `agent.service.register` for this entry."""
    checks = [check for kind, check in _checks(entry) if kind in entry.checks]
    return {
        "name": entry.name,
        "service_id": entry.id,
        "address": entry.address,
        "port": entry.port,
        "tags": ["grpc", "v2", *entry.tags],
        "meta": meta(entry),
        "weights": {"Passing": 10, "Warning": 1},
        "check": checks[0],
        "extra_checks": checks[1:],
        "replace_existing_checks": True,
    }


def ttl_check_id(entry: ServiceEntry) -> str:
    """Return the name of the check that the server's beats feed."""
    return f"{entry.id}:ttl"


def meta(entry: ServiceEntry) -> dict[str, str]:
    """Return what a look-up can filter by: `models` for people, and a key per model for filters."""
    facts = {
        "version": entry.version,
        "proto": TRITON_SERVICE,
        "tls": "1" if entry.tls else "0",
        "instance": entry.instance,
    }
    if entry.metrics_port is not None:
        facts["metrics_port"] = str(entry.metrics_port)
    listed = sorted(entry.models.items())
    facts["models"] = _joined(f"{name}:{version}" for name, version in listed)
    for name, version in listed:
        if len(facts) < MAX_META_KEYS:
            facts[model_key(name)] = version
    return {key: _cut(value) for key, value in facts.items()}


def unannounced(entry: ServiceEntry) -> Mapping[str, str]:
    """Return the models that found no room, and that no look-up by model will find here."""
    keys = meta(entry)
    return {name: version for name, version in entry.models.items() if model_key(name) not in keys}


def _checks(entry: ServiceEntry) -> list[tuple[Check, dict[str, Any]]]:
    # "Status": a server registers when it is ready, and would else be critical until a first check.
    both = {"Status": "passing", "DeregisterCriticalServiceAfter": REAP_AFTER}
    host = f"[{entry.address}]" if ":" in entry.address else entry.address
    heartbeat = {
        "CheckID": ttl_check_id(entry),
        "Name": "heartbeat",
        "TTL": f"{entry.ttl_seconds:g}s",
        **both,
    }
    # The service is named so that a stranger who got this port later does not pass for us. Clients verify the
    # certificate; an agent knows the system's authorities alone, and would take us for dead.
    health = {
        "CheckID": f"{entry.id}:grpc",
        "Name": "grpc",
        "GRPC": f"{host}:{entry.port}/{TRITON_SERVICE}",
        "GRPCUseTLS": entry.tls,
        "TLSSkipVerify": entry.tls,
        "Interval": f"{GRPC_CHECK_INTERVAL_SECONDS}s",
        "Timeout": f"{GRPC_CHECK_TIMEOUT_SECONDS}s",
        **both,
    }
    return [(Check.TTL, heartbeat), (Check.GRPC, health)]


def _joined(items: Iterable[str]) -> str:
    joined = ""
    for item in items:
        longer = f"{joined},{item}" if joined else item
        if len(longer.encode()) > MAX_META_VALUE_BYTES:
            break
        joined = longer
    return joined


def _cut(value: str) -> str:
    return value.encode()[:MAX_META_VALUE_BYTES].decode(errors="ignore")
