from __future__ import annotations

import pytest

from headrace.channels import channel_options
from headrace.config import Settings
from headrace.endpoint import Endpoint


@pytest.mark.parametrize(
    ("address", "proxied"),
    [
        ("127.0.0.1:1", False),
        ("127.8.8.8:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("unix:/tmp/x", False),
        ("10.0.0.1:1", True),
        ("example.org:1", True),
    ],
)
def test_no_proxy_on_this_machine(address: str, proxied: bool) -> None:
    options = dict(channel_options(Endpoint(address), Settings()))
    assert options.get("grpc.enable_http_proxy", 1) == int(proxied)


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_a_silence_longer_than_grpc_can_count_has_no_end(seconds: float) -> None:
    options = dict(channel_options(Endpoint("h:1"), Settings(keepalive_seconds=seconds)))
    assert options["grpc.keepalive_time_ms"] == 2**31 - 1


def test_pings_are_a_choice() -> None:
    assert (
        dict(channel_options(Endpoint("h:1"), Settings(keepalive_seconds=0.5)))["grpc.keepalive_time_ms"]
        == 500
    )
    assert not [
        name
        for name, _ in channel_options(Endpoint("h:1"), Settings(keepalive_seconds=None))
        if "keepalive" in name or "ping" in name
    ]
