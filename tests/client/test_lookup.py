from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace.consul_watch import ConsulLookup
from headrace.lookup import DnsLookup, Endpoint, Explained, Lookup, StaticLookup, parse_target


async def next_set(watch: AsyncIterator[tuple[Endpoint, ...]]) -> list[str]:
    async with asyncio.timeout(5):
        return [endpoint.address for endpoint in await anext(watch)]


async def assert_silent(watch: AsyncIterator[tuple[Endpoint, ...]]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(watch)


@pytest.mark.parametrize(
    ("target", "kind"),
    [("a:1", StaticLookup), ("dns:///a:1", DnsLookup), ("consul:///a", ConsulLookup)],
)
def test_each_form_has_its_look_up(target: str, kind: type[Lookup]) -> None:
    assert isinstance(parse_target(target), kind)


async def test_named_servers_are_told_once() -> None:
    watch = parse_target("b:2,[::1]:1").watch()
    assert await next_set(watch) == ["b:2", "[::1]:1"]
    await assert_silent(watch)


async def test_a_name_is_resolved_to_all_its_addresses() -> None:
    assert "127.0.0.1:8001" in await next_set(parse_target("dns:///localhost:8001").watch())
    assert await next_set(parse_target("dns:///[::1]:8001").watch()) == ["[::1]:8001"]


async def test_a_name_is_followed_and_its_last_addresses_outlive_a_failure() -> None:
    answers: list[list[str] | OSError] = [
        OSError("no name server"),
        ["b:1", "a:1", "b:1"],
        ["a:1", "b:1"],
        OSError("no name server"),
        [],
        ["c:1"],
    ]
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    lookup = DnsLookup("name", 1, interval_seconds=0.001, resolve=resolve)
    assert isinstance(lookup, Explained)
    watch = lookup.watch()
    assert await next_set(watch) == ["a:1", "b:1"]
    assert lookup.problem == ""
    assert await next_set(watch) == []
    assert await next_set(watch) == ["c:1"]
    assert asked == [("name", 1)] * 6
