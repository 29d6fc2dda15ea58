from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from headrace.config import Retry
from headrace.errors import EngineFailed, ModelNotReady, Overloaded, Unavailable
from headrace.retry import Budget, Failure, Retries, next_delay_seconds

POLICY = Retry(attempts=3, backoff_seconds=0.1, max_backoff_seconds=1.0)
MENDABLE = {
    StatusCode.UNAVAILABLE,
    StatusCode.CANCELLED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.INTERNAL,
}


def delay(
    code: StatusCode,
    attempts: int,
    *,
    elsewhere: bool = True,
    advice: float | None = None,
    policy: Retry = POLICY,
) -> float | None:
    failure = Failure(code, "text", advice)
    return next_delay_seconds(policy, failure, attempts, elsewhere=elsewhere, random=Random(1))


@pytest.mark.parametrize("code", sorted(set(StatusCode) - MENDABLE, key=str))
@pytest.mark.parametrize("elsewhere", [True, False])
def test_never_again(code: StatusCode, elsewhere: bool) -> None:
    assert delay(code, 1, elsewhere=elsewhere) is None


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.CANCELLED])
@pytest.mark.parametrize(
    ("attempts", "elsewhere", "least", "most"),
    [(1, True, 0.0, 0.0), (1, False, 0.05, 0.1), (2, True, 0.1, 0.2), (2, False, 0.1, 0.2)],
)
def test_a_server_that_is_away(
    code: StatusCode, attempts: int, elsewhere: bool, least: float, most: float
) -> None:
    seconds = delay(code, attempts, elsewhere=elsewhere)
    assert seconds is not None
    assert least <= seconds <= most


@pytest.mark.parametrize(("advice", "least", "most"), [(0.8, 0.4, 1.2), (0.0, 0.0, 0.0), (None, 0.05, 0.1)])
def test_an_overloaded_server_alone(advice: float | None, least: float, most: float) -> None:
    seconds = delay(StatusCode.RESOURCE_EXHAUSTED, 1, elsewhere=False, advice=advice)
    assert seconds is not None
    assert least <= seconds <= most


@pytest.mark.parametrize("attempts", [1, 2])
def test_another_server_is_asked_at_once_when_one_is_overloaded(attempts: int) -> None:
    assert delay(StatusCode.RESOURCE_EXHAUSTED, attempts, advice=60.0) == 0.0


def test_callers_who_got_the_same_advice_do_not_come_back_together() -> None:
    full, random = Failure(StatusCode.RESOURCE_EXHAUSTED, "full", 1.0), Random(1)
    delays = [next_delay_seconds(POLICY, full, 1, elsewhere=False, random=random) or 0 for _ in range(100)]
    assert min(delays) < 0.6
    assert max(delays) > 1.4


@pytest.mark.parametrize(
    ("attempts", "elsewhere", "expected"), [(1, True, 0.0), (1, False, None), (2, True, None)]
)
def test_a_failed_engine_once_and_elsewhere(attempts: int, elsewhere: bool, expected: float | None) -> None:
    assert delay(StatusCode.INTERNAL, attempts, elsewhere=elsewhere) == expected


@pytest.mark.parametrize("code", sorted(MENDABLE, key=str))
def test_the_attempts_are_limited(code: StatusCode) -> None:
    assert delay(code, 3) is None
    assert delay(code, 1, policy=Retry(attempts=1)) is None


@given(
    st.sampled_from(sorted(StatusCode, key=str)),
    st.integers(1, 60) | st.integers(1000, 10**6),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_a_delay_is_bounded(code: StatusCode, attempts: int, elsewhere: bool, seed: int) -> None:
    policy = Retry(attempts=10**6, backoff_seconds=0.1, max_backoff_seconds=1.0)
    seconds = next_delay_seconds(
        policy, Failure(code, ""), attempts, elsewhere=elsewhere, random=Random(seed)
    )
    assert seconds is None or 0.0 <= seconds <= 1.0


@pytest.mark.parametrize(
    ("code", "at_fault"),
    [
        (StatusCode.UNAVAILABLE, True),
        (StatusCode.CANCELLED, True),
        (StatusCode.RESOURCE_EXHAUSTED, False),
        (StatusCode.INTERNAL, False),
        (StatusCode.INVALID_ARGUMENT, False),
        (StatusCode.DEADLINE_EXCEEDED, False),
    ],
)
def test_whose_fault(code: StatusCode, at_fault: bool) -> None:
    assert Failure(code, "").server_at_fault is at_fault


NOT_READY = Failure(StatusCode.UNAVAILABLE, "loading", reason="MODEL_NOT_READY")


def test_a_model_that_is_not_ready_is_not_its_servers_fault() -> None:
    assert not NOT_READY.server_at_fault
    assert Failure(StatusCode.UNAVAILABLE, "", reason="SOMETHING_ELSE").server_at_fault


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_model_that_is_not_ready_is_asked_for_on_every_other_server_at_once(attempts: int) -> None:
    again = next_delay_seconds(POLICY, NOT_READY, attempts, elsewhere=True, random=Random(1))
    assert again == 0.0
    alone = next_delay_seconds(POLICY, NOT_READY, attempts, elsewhere=False, random=Random(1))
    assert alone is not None
    assert alone >= 0.05
    assert next_delay_seconds(POLICY, NOT_READY, 3, elsewhere=True, random=Random(1)) is None


def test_asking_elsewhere_for_a_model_that_is_not_ready_is_free() -> None:
    retries = Retries(Retry(budget_burst=1, budget_ratio=0), Random(1))
    for _ in range(5):
        assert retries.delay_or_raise(NOT_READY, ["a"], left_seconds=9, elsewhere=True) == 0.0
    assert retries.delay_or_raise(NOT_READY, ["a"], left_seconds=9, elsewhere=False) > 0
    with pytest.raises(ModelNotReady, match="loading"):
        retries.delay_or_raise(NOT_READY, ["a"], left_seconds=9, elsewhere=False)


def test_the_budget_runs_out_and_fills_with_calls() -> None:
    budget = Budget(Retry(budget_burst=3, budget_ratio=0.5))
    assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]
    budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()


@given(st.lists(st.booleans(), max_size=300))
def test_retries_are_a_fraction_of_the_calls(retries: list[bool]) -> None:
    budget = Budget(Retry(budget_burst=10, budget_ratio=0.25))
    calls = granted = 0
    for retry in retries:
        if retry:
            granted += budget.withdraw()
        else:
            budget.deposit()
            calls += 1
    assert granted <= 10 + 0.25 * calls


def test_a_budget_counts_right_among_threads() -> None:
    budget = Budget(Retry(budget_burst=5000, budget_ratio=0))
    with ThreadPoolExecutor(8) as threads:
        granted = sum(threads.map(lambda _: budget.withdraw(), range(8000)))
    assert granted == 5000


def test_no_retry_that_would_be_too_late() -> None:
    retries = Retries(POLICY, Random(1))
    failure = Failure(StatusCode.RESOURCE_EXHAUSTED, "full", 2.0)
    assert retries.delay_seconds(failure, 1, left_seconds=3.1, elsewhere=False) is not None
    assert retries.delay_seconds(failure, 1, left_seconds=1.0, elsewhere=False) is None
    assert retries.delay_seconds(failure, 1, left_seconds=1.0, elsewhere=True) == 0.0


def test_the_last_failure_is_the_error() -> None:
    retries = Retries(POLICY, Random(1))
    failure = Failure(StatusCode.RESOURCE_EXHAUSTED, "full", 0.5)
    with pytest.raises(Overloaded, match=r"^full \[RESOURCE_EXHAUSTED from b after 2 attempts\]$") as caught:
        retries.delay_or_raise(failure, ["a", "b"], left_seconds=0.1, elsewhere=False)
    assert (caught.value.attempts, caught.value.endpoint) == (2, "b")
    assert caught.value.retry_after_seconds == 0.5
    with pytest.raises(EngineFailed):
        retries.delay_or_raise(Failure(StatusCode.INTERNAL, ""), ["a"], left_seconds=9, elsewhere=False)


def test_an_empty_budget_is_the_end() -> None:
    retries = Retries(Retry(budget_burst=1, budget_ratio=0), Random(1))
    failure = Failure(StatusCode.UNAVAILABLE, "gone")
    assert retries.delay_or_raise(failure, ["a"], left_seconds=9, elsewhere=True) == 0.0
    with pytest.raises(Unavailable):
        retries.delay_or_raise(failure, ["a"], left_seconds=9, elsewhere=True)
