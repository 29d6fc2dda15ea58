from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.endpoint import Endpoint, Status
from headrace.pool import Pool, Slot

PASSING, WARNING, CRITICAL, MAINTENANCE = Status


def upper(endpoint: Endpoint) -> str:
    return endpoint.address.upper()


def pool_of(*addresses: str, seed: int = 1) -> Pool[str]:
    pool: Pool[str] = Pool(upper, Random(seed))
    pool.update([Endpoint(address) for address in addresses], 0.0)
    return pool


def pick(pool: Pool[str], now: float = 0.0, tried: tuple[str, ...] = ()) -> Slot[str]:
    slot = pool.pick(now, tried)
    assert slot is not None
    return slot


def picked(pool: Pool[str], now: float, times: int = 200, tried: tuple[str, ...] = ()) -> set[str]:
    """Return who gets calls that come one after another."""
    found = set()
    for _ in range(times):
        slot = pick(pool, now, tried)
        found.add(slot.address)
        slot.outstanding -= 1
    return found


def fail(pool: Pool[str], address: str, now: float) -> None:
    others = tuple({"a", "b", "c"} - {address})
    slot = pick(pool, now, others)
    assert slot.address == address
    pool.done(slot, now, failed=True)


@pytest.mark.parametrize(
    ("statuses", "used"),
    [
        ({"a": PASSING}, {"a"}),
        ({"a": PASSING, "b": WARNING}, {"a", "b"}),
        ({"a": PASSING, "b": CRITICAL}, {"a"}),
        ({"a": PASSING, "b": MAINTENANCE}, {"a"}),
        ({"a": CRITICAL, "b": CRITICAL}, {"a", "b"}),
        ({"a": CRITICAL, "b": MAINTENANCE}, {"a"}),
        ({"a": WARNING, "b": CRITICAL, "c": MAINTENANCE}, {"a"}),
    ],
)
def test_who_is_used(statuses: dict[str, Status], used: set[str]) -> None:
    pool = pool_of()
    pool.update([Endpoint(address, status=status) for address, status in statuses.items()], 0.0)
    assert picked(pool, 0.0) == used
    assert pool.listed == len(statuses)


@pytest.mark.parametrize("endpoints", [[], [Endpoint("a", status=MAINTENANCE)]])
def test_nobody_to_pick(endpoints: list[Endpoint]) -> None:
    pool = pool_of()
    pool.update(endpoints, 0.0)
    assert pool.pick(0.0) is None


def test_unknown_until_the_first_set_even_an_empty_one() -> None:
    pool: Pool[str] = Pool(upper, Random(1))
    assert not pool.known
    pool.update([], 0.0)
    assert pool.known


def test_the_less_busy_of_two_gets_the_call() -> None:
    pool = pool_of("a", "b")
    busy = pick(pool, tried=("b",))
    assert {pick(pool).address for _ in range(1)} == {"b"}
    assert busy.address == "a"


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 2**32))
def test_calls_that_never_end_spread_by_weight(weights: list[int], seed: int) -> None:
    pool = pool_of(seed=seed)
    pool.update([Endpoint(str(index), weight) for index, weight in enumerate(weights)], 0.0)
    total = 60 * sum(weights)
    counts = Counter(pick(pool).address for _ in range(total))
    for index, weight in enumerate(weights):
        assert abs(counts[str(index)] - 60 * weight) <= 20 + 30 * weight


def test_calls_one_after_another_reach_light_weights_too() -> None:
    pool = pool_of()
    pool.update([Endpoint("heavy", 10), Endpoint("light", 1), Endpoint("unweighted", 0)], 0.0)
    assert picked(pool, 0.0) == {"heavy", "light", "unweighted"}


@given(st.integers(1, 12), st.integers(0, 2**32))
def test_every_server_is_picked_in_the_end(count: int, seed: int) -> None:
    addresses = [str(number) for number in range(count)]
    pool = pool_of(*addresses, seed=seed)
    assert picked(pool, 0.0, times=100 * count) == set(addresses)


def test_a_failed_server_is_left_out_for_longer_each_time() -> None:
    pool = pool_of("a", "b")
    now = 0.0
    for seconds in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10):
        fail(pool, "a", now)
        assert picked(pool, now + seconds - 0.001) == {"b"}
        now += seconds
        assert picked(pool, now) == {"a", "b"}


def test_calls_that_fail_together_are_one_failure() -> None:
    pool = pool_of("a", "b")
    slots = [pick(pool, 0.0, ("b",)) for _ in range(32)]
    for slot in slots:
        pool.done(slot, 0.5, failed=True)
    assert picked(pool, 1.4) == {"b"}
    assert picked(pool, 1.5) == {"a", "b"}


def test_an_answer_ends_the_ejection() -> None:
    pool = pool_of("a", "b")
    late = pick(pool, 0.0, ("b",))
    fail(pool, "a", 0.0)
    assert picked(pool, 0.5) == {"b"}
    pool.done(late, 0.5, failed=False)
    assert picked(pool, 0.5) == {"a", "b"}
    fail(pool, "a", 1.0)
    assert picked(pool, 2.0) == {"a", "b"}, "counted from one again"


def test_when_all_are_left_out_all_are_used() -> None:
    pool = pool_of("a", "b")
    fail(pool, "a", 0.0)
    fail(pool, "b", 0.0)
    assert picked(pool, 0.5) == {"a", "b"}
    assert not pool.elsewhere(0.5, ())


def test_tried_servers_come_last() -> None:
    pool = pool_of("a", "b", "c")
    assert picked(pool, 0.0, tried=("a",)) == {"b", "c"}
    assert picked(pool, 0.0, tried=("a", "b")) == {"c"}
    assert picked(pool, 0.0, tried=("a", "b", "c")) == {"a", "b", "c"}


def test_a_sound_server_that_was_tried_comes_before_a_failed_one() -> None:
    pool = pool_of("a", "b")
    fail(pool, "b", 0.0)
    assert picked(pool, 0.5, tried=("a",)) == {"a"}


@pytest.mark.parametrize(("tried", "elsewhere"), [((), True), (("a",), True), (("a", "b", "c"), False)])
def test_elsewhere(tried: tuple[str, ...], elsewhere: bool) -> None:
    assert pool_of("a", "b", "c").elsewhere(0.0, tried) is elsewhere


def test_elsewhere_does_not_count_the_ejected() -> None:
    pool = pool_of("a", "b")
    fail(pool, "b", 0.0)
    assert not pool.elsewhere(0.5, ("a",))
    assert pool.elsewhere(1.0, ("a",))


def test_an_absent_server_is_closed_when_idle_and_after_a_second() -> None:
    pool = pool_of("a", "b")
    call = pick(pool, 0.0, ("b",))
    assert pool.update([Endpoint("b")], 10.0) == []
    assert picked(pool, 10.0) == {"b"}
    assert pool.sweep(12.0) == [], "its call is under way"
    assert pool.done(call, 12.0, failed=False) == ["A"]


def test_an_idle_absent_server_keeps_its_connection_for_a_second() -> None:
    pool = pool_of("a", "b")
    pool.update([Endpoint("b"), Endpoint("a", status=MAINTENANCE)], 10.0)
    assert pool.sweep(10.9) == []
    assert pool.sweep(11.0) == ["A"]
    assert pool.sweep(99.0) == []


def test_a_server_that_comes_back_in_time_keeps_its_connection() -> None:
    opened: list[str] = []
    pool: Pool[str] = Pool(lambda one: opened.append(one.address) or one.address, Random(1))
    for now, present in ((0.0, "ab"), (1.0, "a"), (1.5, "ab")):
        pool.update([Endpoint(address) for address in present], now)
    assert pool.sweep(9.0) == []
    assert opened == ["a", "b"]
    assert picked(pool, 9.0) == {"a", "b"}


def test_a_critical_server_loses_its_connection_at_once() -> None:
    pool = pool_of("a", "b")
    call = pick(pool, 0.0, ("b",))
    assert pool.update([Endpoint("a", status=CRITICAL), Endpoint("b")], 1.0) == ["A"]
    assert pool.done(call, 1.0, failed=True) == []
    assert picked(pool, 1.0) == {"b"}
    pool.update([Endpoint("a"), Endpoint("b")], 2.0)
    assert picked(pool, 2.0) == {"a", "b"}


def test_a_server_that_begins_to_speak_tls_gets_another_connection() -> None:
    pool = pool_of("a", "b")
    call = pick(pool, 0.0, ("b",))
    secure = Endpoint("a", meta={"tls": "1"})
    assert pool.update([secure, Endpoint("b")], 1.0) == ["A"]
    assert pool.done(call, 1.0, failed=True) == []
    assert pool.update([secure, Endpoint("b")], 1.0) == []
    assert picked(pool, 1.0) == {"a", "b"}
    assert pool.update([Endpoint("a"), Endpoint("b")], 1.0) == ["A"]


def test_nothing_is_closed_when_all_turn_critical() -> None:
    pool = pool_of("a", "b")
    assert pool.update([Endpoint("a", status=CRITICAL), Endpoint("b", status=CRITICAL)], 1.0) == []
    assert picked(pool, 1.0) == {"a", "b"}


def test_one_address_listed_twice_is_one_server() -> None:
    pool = pool_of()
    closing = pool.update([Endpoint("a", id="old", status=CRITICAL), Endpoint("a", id="new")], 0.0)
    assert closing == []
    assert picked(pool, 0.0) == {"a"}


def test_clear_returns_every_connection() -> None:
    pool = pool_of("a", "b")
    pool.update([Endpoint("b")], 0.5)
    assert sorted(pool.clear()) == ["A", "B"]
    assert pool.pick(0.6) is None


EVENTS = st.one_of(
    st.tuples(st.just("pick"), st.sets(st.sampled_from("abcd"))),
    st.tuples(st.just("answer"), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.floats(0.0, 3.0)),
    st.tuples(
        st.just("update"),
        st.dictionaries(st.sampled_from("abcd"), st.sampled_from(Status), max_size=4),
    ),
)


@given(st.lists(EVENTS, max_size=60), st.integers(0, 2**32))
def test_whatever_happens(events: list[tuple[str, object]], seed: int) -> None:
    """Connections are closed once, never under a call unless critical; counts come back to zero."""
    opened: Counter[str] = Counter()
    closed: Counter[str] = Counter()

    def connect(endpoint: Endpoint) -> str:
        opened[endpoint.address] += 1
        return endpoint.address

    pool: Pool[str] = Pool(connect, Random(seed))
    statuses: dict[str, Status] = {}
    calls: list[Slot[str]] = []
    slots: list[Slot[str]] = []
    now = 0.0
    for event, value in events:
        match event, value:
            case "pick", set(tried):
                slot = pool.pick(now, tuple(tried))
                sound = {s for s in statuses if statuses[s] in (PASSING, WARNING)}
                usable = sound or {s for s in statuses if statuses[s] is CRITICAL}
                assert (slot is not None) == bool(usable)
                if slot is not None:
                    assert slot.address in usable
                    assert opened[slot.address] == closed[slot.address] + 1
                    calls.append(slot)
                    slots.append(slot)
            case (("answer" | "fail"), int(index)) if calls:
                call = calls.pop(index % len(calls))
                closed.update(pool.done(call, now, failed=event == "fail"))
            case "wait", float(seconds):
                now += seconds
                closed.update(pool.sweep(now))
            case "update", dict(update):
                statuses = update
                closed.update(pool.update([Endpoint(a, status=s) for a, s in statuses.items()], now))
    for call in calls:
        closed.update(pool.done(call, now, failed=False))
    closed.update(pool.clear())
    assert opened == closed
    assert all(slot.outstanding == 0 for slot in slots)
