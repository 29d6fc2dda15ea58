from __future__ import annotations

import asyncio

import pytest

from headrace_server.discovery.registry import (
    Check,
    MemoryRegistrar,
    ServiceEntry,
    checks_for,
    why_not_registered,
)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"address": ""}, "a name and an address"),
        ({"name": ""}, "a name and an address"),
        ({"port": 0}, "between 1 and 65535, not 0"),
        ({"port": 65536}, "not 65536"),
        ({"checks": frozenset()}, "one of ttl, grpc at least"),
        ({"ttl_seconds": 0.0}, "more than 0 s, not 0.0"),
        ({"ttl_seconds": float("inf")}, "not inf"),
        ({"ttl_seconds": float("nan")}, "not nan"),
    ],
)
def test_an_entry_that_cannot_be_registered_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ServiceEntry(**({"address": "10.0.0.5", "port": 8001} | wrong))  # type: ignore[arg-type]


def test_the_id_survives_a_restart_and_the_instance_does_not() -> None:
    first, second = ServiceEntry("10.0.0.5", 8001), ServiceEntry("10.0.0.5", 8001)
    assert first.id == second.id == "inference-10.0.0.5-8001"
    assert first.instance != second.instance


@pytest.mark.parametrize(
    ("host", "advertise", "told"),
    [
        ("10.0.0.5", "", None),
        ("gpu-7.internal", "", None),
        ("0.0.0.0", "10.0.0.5", None),
        ("127.0.0.1", "127.0.0.1", None),
        ("127.0.0.1", "10.0.0.5", None),
        ("127.0.0.1", "", "nobody outside this machine"),
        ("127.8.9.1", "", "nobody outside this machine"),
        ("::1", "", "nobody outside this machine"),
        ("[::1]", "", "nobody outside this machine"),
        ("localhost", "", "nobody outside this machine"),
        ("0.0.0.0", "", "every interface"),
        ("::", "", "every interface"),
        ("10.0.0.5", "0.0.0.0", "every interface"),
    ],
)
def test_an_address_is_registered_only_where_others_can_reach_it(
    host: str, advertise: str, told: str | None
) -> None:
    why = why_not_registered(host, advertise)
    if told is None:
        assert why is None
    else:
        assert why is not None
        assert told in why
        assert "--advertise" in why


async def test_the_registry_in_memory_holds_what_its_servers_say() -> None:
    entries: dict[str, ServiceEntry] = {}
    one = MemoryRegistrar(entries, ServiceEntry("10.0.0.5", 8001))
    two = MemoryRegistrar(entries, ServiceEntry("10.0.0.6", 8001))
    await two.update({"bert": "1"})
    assert not entries
    await asyncio.gather(one.start(), two.start())
    await one.first_attempt()
    await one.update({"resnet50": "3"})
    assert {entry.address: entry.models for entry in entries.values()} == {
        "10.0.0.5": {"resnet50": "3"},
        "10.0.0.6": {"bert": "1"},
    }
    await one.update({})
    assert [entry.address for entry in entries.values()] == ["10.0.0.6"]
    assert not one.registered.is_set()
    await one.update({"resnet50": "3"})
    assert len(entries) == 2
    await one.stop()
    await one.stop()
    assert [entry.address for entry in entries.values()] == ["10.0.0.6"]
    assert not one.registered.is_set()


@pytest.mark.parametrize(
    ("chosen", "clients_need_certificate", "checks"),
    [
        ((), False, {Check.TTL, Check.GRPC}),
        ((), True, {Check.TTL}),
        (("grpc",), True, {Check.GRPC}),
        (("ttl", "grpc"), True, {Check.TTL, Check.GRPC}),
        (("ttl",), False, {Check.TTL}),
    ],
)
def test_checks_that_nobody_chose_are_those_that_can_succeed(
    chosen: tuple[str, ...], clients_need_certificate: bool, checks: set[Check]
) -> None:
    assert checks_for(chosen, clients_need_certificate=clients_need_certificate) == checks
