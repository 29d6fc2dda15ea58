"""What an answer of Consul's health endpoint means for somebody who watches it.

A watch is a chain of queries, each blocked by the agent until the index that the last one came with
is old. `decide` is one link of that chain: from what is known and what came, to what is known now,
and how long to leave Consul alone. It has no clock and no connection.

An answer is believed only when it can be right: an agent that lost its leader, or fails, changes
nothing that is known already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.endpoint import Endpoint, Status, joined
from headrace_proto.consul import model_key

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one query; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Watch:
    """What a watch knows. `endpoints` is None until the first answer that could be believed."""

    index: int = 0
    endpoints: tuple[Endpoint, ...] | None = None
    failures: int = 0
    problem: str = ""
    """What is wrong at the moment, in words; "" while all is well."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known now, whether that is another set of endpoints, and the delay before the next query.

    `backoff_seconds` is for the caller to shorten at random, so that clients do not come back as one.
    """

    watch: Watch
    changed: bool = False
    backoff_seconds: float = 0.0


def decide(watch: Watch, answer: Answer | str, *, has_token: bool = False) -> Decision:
    """Return what `answer`, or the failure to get one, makes of `watch`."""
    if isinstance(answer, str):
        return _failed(watch, answer)
    if answer.status != 200:
        return _failed(watch, _refusal(answer))
    leaderless = answer.headers.get("x-consul-knownleader", "true") == "false"
    if leaderless and watch.endpoints is not None:
        return _failed(watch, "the agent's servers have no leader")
    try:
        index = int(answer.headers["x-consul-index"])
        endpoints = parse_endpoints(json.loads(answer.body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return _failed(watch, f"this is no answer of Consul's ({type(error).__name__}: {error})")
    return Decision(
        Watch(
            index=next_index(watch.index, index),
            endpoints=endpoints,
            problem=_doubt(watch, answer, endpoints, has_token),
        ),
        changed=endpoints != watch.endpoints,
    )


def next_index(last: int, received: int) -> int:
    """Return the index to wait for: one that went back is the sign of another history, so of none."""
    if received < last:
        return 0
    return max(received, 1)


def parse_endpoints(entries: Sequence[Mapping[str, Any]]) -> tuple[Endpoint, ...]:
    """Return the endpoints of a parsed body, by address; one address is one endpoint, at its best.

    A server that was registered twice (by a name that changed, through another agent) leaves an entry
    behind that turns critical: the address is as good as its best entry.
    """
    best: dict[str, Endpoint] = {}
    for entry in entries:
        endpoint = _endpoint(entry)
        other = best.get(endpoint.address)
        if other is None or _rank(endpoint.status) < _rank(other.status):
            best[endpoint.address] = endpoint
    return tuple(best[address] for address in sorted(best))


def filter_expression(tags: Sequence[str], model: str) -> str:
    """Return Consul's filter for servers with all tags and the model; "" where all will do."""
    wanted = [f'"{tag}" in Service.Tags' for tag in tags]
    if model:
        wanted.append(f'"{model_key(model)}" in Service.Meta')
    return " and ".join(wanted)


def _failed(watch: Watch, problem: str) -> Decision:
    exponent = min(watch.failures, 30)
    return Decision(
        replace(watch, index=0, failures=watch.failures + 1, problem=problem),
        backoff_seconds=min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**exponent),
    )


def _refusal(answer: Answer) -> str:
    text = " ".join(answer.body[:200].decode(errors="replace").split())
    hint = "; the token needs service:read and node:read" if answer.status == 403 else ""
    return f"status {answer.status}: {text}{hint}"


def _doubt(watch: Watch, answer: Answer, endpoints: tuple[Endpoint, ...], has_token: bool) -> str:
    """Say why a set may be smaller than the truth: without the rights to read, Consul shows less."""
    if answer.headers.get("x-consul-results-filtered-by-acls") == "true":
        return "the token may not see every server: it needs service:read and node:read"
    if not endpoints and has_token and (watch.endpoints is None or watch.problem):
        return "no server was found: either there is none, or the token lacks service:read or node:read"
    return ""


def _endpoint(entry: Mapping[str, Any]) -> Endpoint:
    service = entry["Service"]
    status = _status(entry["Checks"])
    weights = service.get("Weights") or {}
    weight = weights.get("Warning" if status is Status.WARNING else "Passing", 1)
    return Endpoint(
        address=joined(service.get("Address") or entry["Node"]["Address"], int(service["Port"])),
        weight=max(1, int(weight)),
        status=status,
        id=service["ID"],
        tags=tuple(service.get("Tags") or ()),
        meta=dict(service.get("Meta") or {}),
    )


def _status(checks: Sequence[Mapping[str, Any]]) -> Status:
    if any(check["CheckID"].startswith(("_service_maintenance", "_node_maintenance")) for check in checks):
        return Status.MAINTENANCE
    return max((Status(check["Status"]) for check in checks), key=_rank, default=Status.PASSING)


def _rank(status: Status) -> int:
    return list(Status).index(status)
