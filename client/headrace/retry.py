"""Whether, and when, a call that failed is tried again: pure decisions.

| status | tried again |
| --- | --- |
| UNAVAILABLE, or CANCELLED by the server (a stopping one does that) | elsewhere, later with backoff |
| UNAVAILABLE because of the model alone | on every other server, then with backoff |
| RESOURCE_EXHAUSTED | on every other server, then after about the time that the server asks for |
| INTERNAL | once, and only elsewhere |
| any other | never: another attempt would end alike, or the time is over |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from threading import Lock
from typing import Final

from grpc import StatusCode

from headrace.config import Retry
from headrace.errors import MODEL_NOT_READY, HeadraceError, error_for

_MOST_DOUBLINGS: Final = 30
"""Of a backoff; after that many it is longer than any that is allowed, and a float still holds it."""

NO_REASON: Final = "the server gave no reason"
"""The text of a failure that came without one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt ended; `retry_after_seconds` is the server's advice, if it gave any.

    `reason` is the server's word for what the code alone does not say. `too_large` says that gRPC
    refused a request's size, so that the request is to blame.
    """

    code: StatusCode
    message: str
    retry_after_seconds: float | None = None
    too_large: bool = False
    reason: str = ""

    @property
    def model_not_ready(self) -> bool:
        """Whether the server is well, and only the model that was asked for is not."""
        return self.code is StatusCode.UNAVAILABLE and self.reason == MODEL_NOT_READY

    @property
    def refused(self) -> bool:
        """Whether a server that is well would not take this request, and another one may."""
        return self.model_not_ready or self.code is StatusCode.RESOURCE_EXHAUSTED

    @property
    def server_at_fault(self) -> bool:
        """Whether the server should be left out for a while, whatever the next call is."""
        return self.code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED) and not self.model_not_ready


CONNECTION_CLOSED: Final = Failure(StatusCode.CANCELLED, "the connection was closed: its server left")
"""When the client itself closed a connection that a call was on, or was about to use."""

BESIDE_TOO_LARGE: Final = Failure(
    StatusCode.UNAVAILABLE,
    "the stream ended because another request was too large; this one must not be sent again",
)
"""What a request ends with whose stream another one ended, if sending it twice would do harm."""


def error_of(failure: Failure, tried: Sequence[str]) -> HeadraceError:
    """Return the error that a caller gets for the last failure, after the servers `tried` were asked."""
    return error_for(
        failure.code,
        failure.message,
        endpoint=tried[-1] if tried else "",
        attempts=len(tried),
        retry_after_seconds=failure.retry_after_seconds,
        reason=failure.reason,
    )


def next_delay_seconds(
    policy: Retry, failure: Failure, attempts: int, *, elsewhere: bool, random: Random
) -> float | None:
    """Return how long to wait before the next attempt, or None if there must be none.

    `attempts` counts those made, this failed one included; `elsewhere` says whether a server is left
    that was not asked yet.
    """
    if attempts >= policy.attempts:
        return None
    match failure.code:
        case StatusCode.UNAVAILABLE | StatusCode.CANCELLED:
            at_once = elsewhere and (attempts == 1 or failure.model_not_ready)
            return 0.0 if at_once else _backoff_seconds(policy, attempts, random)
        case StatusCode.RESOURCE_EXHAUSTED:
            if elsewhere:
                return 0.0
            if failure.retry_after_seconds is not None:
                # Servers give all whom they refuse the same advice: half to one and a half times it.
                return failure.retry_after_seconds * (0.5 + random.random())
            return _backoff_seconds(policy, attempts, random)
        case StatusCode.INTERNAL:
            return 0.0 if attempts == 1 and elsewhere else None
        case _:
            return None


def _backoff_seconds(policy: Retry, attempts: int, random: Random) -> float:
    """Double with each attempt, between half and all of it, so that callers do not come back together."""
    doublings = min(attempts - 1, _MOST_DOUBLINGS)
    limit = min(policy.backoff_seconds * 2.0**doublings, policy.max_backoff_seconds)
    return limit * (0.5 + random.random() / 2)


class Budget:
    """What keeps retries a fraction of the calls; any thread may use it."""

    def __init__(self, policy: Retry) -> None:
        self._ratio = policy.budget_ratio
        self._burst = float(policy.budget_burst)
        self._tokens = self._burst
        self._lock = Lock()

    def deposit(self) -> None:
        """Count a call."""
        with self._lock:
            self._tokens = min(self._tokens + self._ratio, self._burst)

    def withdraw(self) -> bool:
        """Count a retry, or say that there are too many."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


class Retries:
    """The retry rules of one client, with the budget that all of its calls share."""

    def __init__(self, policy: Retry, random: Random) -> None:
        self._policy = policy
        self._random = random
        self.budget = Budget(policy)

    def delay_seconds(
        self, failure: Failure, attempts: int, *, left_seconds: float, elsewhere: bool
    ) -> float | None:
        """Return how long to wait before the next attempt; None if it is not allowed, or too late."""
        delay = next_delay_seconds(self._policy, failure, attempts, elsewhere=elsewhere, random=self._random)
        return None if delay is None or delay >= left_seconds else delay

    def pay(self, failure: Failure, *, elsewhere: bool) -> bool:
        """Take a retry from the budget, or say that there have been too many.

        Asking elsewhere for a model that is not ready here is free. It loads nobody, and it goes on for
        as long as the model is not ready, on servers that are not left out for it.
        """
        return (failure.model_not_ready and elsewhere) or self.budget.withdraw()

    def delay_or_raise(
        self,
        failure: Failure,
        tried: Sequence[str],
        *,
        left_seconds: float,
        elsewhere: bool,
        may_repeat: bool = True,
    ) -> float:
        """Return how long to wait before the next attempt, paid for, or raise the call's error.

        `may_repeat` says whether the request may be sent twice at all.
        """
        if not may_repeat:
            raise error_of(failure, tried)
        delay = self.delay_seconds(failure, len(tried), left_seconds=left_seconds, elsewhere=elsewhere)
        if delay is None or not self.pay(failure, elsewhere=elsewhere):
            raise error_of(failure, tried)
        return delay
