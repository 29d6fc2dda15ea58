from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.consul_health import (
    MAX_BACKOFF_SECONDS,
    Answer,
    Watch,
    decide,
    filter_expression,
    next_index,
    parse_endpoints,
)
from headrace.endpoint import Endpoint, Status


def entry(address: str = "10.0.0.5", *statuses: str, port: int = 8001, **service: Any) -> dict[str, Any]:
    told = {"ID": f"id-{address}", "Address": address, "Port": port, **service}
    checks = [{"CheckID": f"c{number}", "Status": status} for number, status in enumerate(statuses)]
    return {"Node": {"Address": "10.0.0.99"}, "Service": told, "Checks": checks}


def answer(*entries: dict[str, Any], index: str = "7", **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, {"x-consul-index": index, **names}, json.dumps(entries).encode())


FIVE = Endpoint("10.0.0.5:8001", id="id-10.0.0.5")
SIX = Endpoint("10.0.0.6:8001", id="id-10.0.0.6")
KNOWN = Watch(index=7, endpoints=(FIVE,))
FILTERED = {"x_consul_results_filtered_by_acls": "true"}
LEADERLESS = {"x_consul_knownleader": "false"}


@pytest.mark.parametrize(
    ("watch", "came", "index", "endpoints", "changed"),
    [
        (Watch(), answer(entry()), 7, (FIVE,), True),
        (Watch(), answer(), 7, (), True),
        (Watch(), answer(entry(), **LEADERLESS), 7, (FIVE,), True),
        (KNOWN, answer(entry()), 7, (FIVE,), False),
        (KNOWN, answer(entry(), index="9"), 9, (FIVE,), False),
        (KNOWN, answer(entry(), entry("10.0.0.6"), index="9"), 9, (FIVE, SIX), True),
        (KNOWN, answer(entry("10.0.0.6"), entry(), index="9"), 9, (FIVE, SIX), True),
        (KNOWN, answer(index="9"), 9, (), True),
        (KNOWN, answer(entry("10.0.0.6"), index="3"), 0, (SIX,), True),
        (KNOWN, answer(entry(), index="0"), 0, (FIVE,), False),
        (Watch(), answer(entry(), index="0"), 1, (FIVE,), True),
        (Watch(), answer(entry(), index="-4"), 0, (FIVE,), True),
        (Watch(0, (FIVE,), failures=9, problem="away"), answer(entry("10.0.0.6")), 7, (SIX,), True),
    ],
)
def test_an_answer_that_is_believed(
    watch: Watch, came: Answer, index: int, endpoints: tuple[Endpoint, ...], changed: bool
) -> None:
    decision = decide(watch, came)
    assert decision.watch == Watch(index, endpoints)
    assert decision.changed is changed
    assert decision.backoff_seconds == 0


@pytest.mark.parametrize("watch", [Watch(), KNOWN, Watch(0, (FIVE,), failures=3)])
@pytest.mark.parametrize(
    ("came", "told"),
    [
        ("the agent cannot be reached", "cannot be reached"),
        (Answer(500, {}, b"No cluster\nleader"), "status 500: No cluster leader"),
        (Answer(403, {}, b"Permission denied"), "needs service:read and node:read"),
        (Answer(200, {"x-consul-index": "8"}, b"<html>"), "no answer of Consul's (JSONDecodeError"),
        (Answer(200, {"x-consul-index": "8"}, b"{}x"), "no answer of Consul's"),
        (Answer(200, {"x-consul-index": "8"}, b'["text"]'), "no answer of Consul's (TypeError"),
        (Answer(200, {"x-consul-index": "8"}, b'[{"Service": {}}]'), "no answer of Consul's (KeyError"),
        (Answer(200, {"x-consul-index": "8"}, b"7"), "no answer of Consul's (TypeError"),
        (Answer(200, {"x-consul-index": "8"}, b"\xff"), "no answer of Consul's (UnicodeDecodeError"),
        (Answer(200, {"x-consul-index": "eight"}, b"[]"), "no answer of Consul's (ValueError"),
        (Answer(200, {}, b"[]"), "no answer of Consul's (KeyError"),
    ],
)
def test_a_failure_changes_nothing_that_is_known(watch: Watch, came: Answer | str, told: str) -> None:
    decision = decide(watch, came)
    assert told in decision.watch.problem
    assert decision.watch.endpoints == watch.endpoints
    assert decision.watch.index == 0
    assert decision.watch.failures == watch.failures + 1
    assert decision.backoff_seconds == pytest.approx(0.1 * 2**watch.failures)
    assert not decision.changed


def test_an_agent_without_a_leader_is_not_believed_once_something_is_known() -> None:
    decision = decide(KNOWN, answer(index="9", **LEADERLESS))
    assert decision.watch == Watch(0, (FIVE,), failures=1, problem="the agent's servers have no leader")
    assert decision.backoff_seconds > 0
    assert not decision.changed


@pytest.mark.parametrize(
    ("watch", "came", "has_token", "told"),
    [
        (Watch(), answer(entry(), **FILTERED), False, "may not see every server"),
        (KNOWN, answer(**FILTERED), True, "may not see every server"),
        (Watch(), answer(), True, "no server was found"),
        (Watch(), answer(), False, ""),
        (KNOWN, answer(), True, ""),
        (Watch(), answer(entry()), True, ""),
    ],
)
def test_a_set_that_may_be_too_small_is_doubted(
    watch: Watch, came: Answer, has_token: bool, told: str
) -> None:
    problem = decide(watch, came, has_token=has_token).watch.problem
    assert told in problem
    assert bool(problem) is bool(told)


@pytest.mark.parametrize(
    ("statuses", "extra", "status"),
    [
        ([], [], Status.PASSING),
        (["passing", "passing"], [], Status.PASSING),
        (["passing", "warning"], [], Status.WARNING),
        (["warning", "critical", "passing"], [], Status.CRITICAL),
        (["passing"], ["_service_maintenance:x"], Status.MAINTENANCE),
        (["critical"], ["_node_maintenance"], Status.MAINTENANCE),
    ],
)
def test_a_server_is_as_well_as_its_worst_check(
    statuses: list[str], extra: list[str], status: Status
) -> None:
    told = entry("10.0.0.5", *statuses)
    told["Checks"] += [{"CheckID": name, "Status": "critical"} for name in extra]
    assert parse_endpoints([told])[0].status is status


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({"Address": ""}, {"address": "10.0.0.99:8001"}),
        ({"Address": "fd00::5"}, {"address": "[fd00::5]:8001"}),
        ({"Tags": None, "Meta": None}, {"tags": (), "meta": {}}),
        ({"Tags": ["a", "b"], "Meta": {"k": "v"}}, {"tags": ("a", "b"), "meta": {"k": "v"}}),
        ({"Weights": {"Passing": 10, "Warning": 1}}, {"weight": 10}),
        ({"Weights": {"Passing": 0, "Warning": 0}}, {"weight": 1}),
        ({}, {"weight": 1}),
    ],
)
def test_what_an_entry_says(service: dict[str, Any], expected: dict[str, Any]) -> None:
    (endpoint,) = parse_endpoints([entry("10.0.0.5", "passing", **service)])
    assert {name: getattr(endpoint, name) for name in expected} == expected


def test_a_warning_has_its_own_weight() -> None:
    told = entry("10.0.0.5", "warning", Weights={"Passing": 10, "Warning": 2})
    assert parse_endpoints([told])[0].weight == 2


@pytest.mark.parametrize("order", [1, -1])
def test_an_address_that_was_registered_twice_is_as_good_as_its_better_entry(order: int) -> None:
    old = entry("10.0.0.5", "critical", ID="old")
    new = entry("10.0.0.5", "passing", ID="new")
    assert [endpoint.id for endpoint in parse_endpoints([old, new][::order])] == ["new"]


@pytest.mark.parametrize(
    ("tags", "model", "expression"),
    [
        ((), "", ""),
        (("blue",), "", '"blue" in Service.Tags'),
        (
            ("a", "b"),
            "net.v2",
            '"a" in Service.Tags and "b" in Service.Tags and "model_net_v2-eaf3ed6e" in Service.Meta',
        ),
    ],
)
def test_the_agent_filters(tags: tuple[str, ...], model: str, expression: str) -> None:
    assert filter_expression(tags, model) == expression


@pytest.mark.parametrize(
    ("last", "received", "following"), [(0, 0, 1), (0, -1, 0), (5, 5, 5), (5, 6, 6), (5, 4, 0), (1, 0, 0)]
)
def test_the_index_to_wait_for(last: int, received: int, following: int) -> None:
    assert next_index(last, received) == following


ANSWERS = st.one_of(
    st.just("away"),
    st.builds(
        answer,
        st.sampled_from(["10.0.0.5", "10.0.0.6"]).map(entry),
        index=st.integers(-2, 9).map(str),
        x_consul_knownleader=st.sampled_from(["true", "false"]),
    ),
    st.builds(
        Answer, st.sampled_from([200, 403, 500]), st.just({"x-consul-index": "5"}), st.binary(max_size=9)
    ),
)


@given(st.lists(ANSWERS))
def test_whatever_comes_a_watch_keeps_what_it_knew_until_it_knows_better(answers: list[Answer | str]) -> None:
    watch = Watch()
    for came in answers:
        decision = decide(watch, came)
        after = decision.watch
        assert decision.changed is (after.endpoints != watch.endpoints)
        assert (after.failures > 0) is (decision.backoff_seconds > 0)
        if after.failures:
            assert after.endpoints == watch.endpoints
            assert after.index == 0
            assert after.problem
        assert after.index >= 0
        assert decision.backoff_seconds <= MAX_BACKOFF_SECONDS
        watch = after
