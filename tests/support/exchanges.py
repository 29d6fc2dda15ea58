"""Streams as plain data: requests admitted, sent and answered by a test."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from grpc import StatusCode

from headrace.config import Retry
from headrace.exchange import Exchange, Leg
from headrace.retry import Failure, Retries
from headrace.stream_requests import Encoded

GONE = Failure(StatusCode.UNAVAILABLE, "gone")
ANSWER = {"y": np.ones(1)}


def exchange(
    *, max_in_flight: int = 8, timeout_seconds: float | None = None, policy: Retry | None = None
) -> Exchange[str]:
    retries = Retries(policy or Retry(attempts=3, backoff_seconds=0.1), Random(1))
    return Exchange(retries, max_in_flight=max_in_flight, timeout_seconds=timeout_seconds)


def request(key: str) -> Encoded:
    return Encoded(f"id of {key}", key.encode())


def admit(exchange: Exchange[str], *keys: str, now: float = 0.0) -> None:
    for key in keys:
        exchange.admit(key, request(key), now)


def sent(exchange: Exchange[str], leg: Leg[str], now: float = 0.0) -> dict[str, str]:
    """Send all there is; return the ids by the callers' keys."""
    ids = {}
    while (message := exchange.take(leg, now)) is not None:
        ids[message.decode()] = f"id of {message.decode()}"
    return ids


def outcomes(exchange: Exchange[str]) -> dict[str, Any]:
    found = dict[str, Any]()
    while (outcome := exchange.next_outcome()) is not None:
        assert outcome[0] not in found
        found[outcome[0]] = outcome[1]
    return found
