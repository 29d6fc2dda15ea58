from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.targets import ConsulTarget, DnsTarget, StaticTarget, Target, parse, split_address


@pytest.mark.parametrize(
    ("target", "meaning"),
    [
        ("a:1", StaticTarget(("a:1",))),
        ("a:1,b:2", StaticTarget(("a:1", "b:2"))),
        (" a:1, b:2 ", StaticTarget(("a:1", "b:2"))),
        ("a:1,b:2,a:1", StaticTarget(("a:1", "b:2"))),
        ("[::1]:8001,10.0.0.5:65535", StaticTarget(("[::1]:8001", "10.0.0.5:65535"))),
        ("[fe80::1%eth0]:8001", StaticTarget(("[fe80::1%eth0]:8001",))),
        ("consul:8500", StaticTarget(("consul:8500",))),
        ("unix:/run/headrace.sock", StaticTarget(("unix:/run/headrace.sock",))),
        ("unix:///run/headrace.sock", StaticTarget(("unix:/run/headrace.sock",))),
        ("a:1, unix:it.sock", StaticTarget(("a:1", "unix:it.sock"))),
        ("a:1,unix:///it.sock", StaticTarget(("a:1", "unix:/it.sock"))),
        ("dns:///inference.example:8001", DnsTarget("inference.example", 8001)),
        ("dns:///[::1]:8001", DnsTarget("::1", 8001)),
        ("consul:///inference", ConsulTarget("inference")),
        ("CONSUL:///inference", ConsulTarget("inference")),
        ("consul:///in%20ference", ConsulTarget("in ference")),
        ("consul://agent:8500/inference", ConsulTarget("inference", agent="agent:8500")),
        ("consul://[::1]:8500/inference", ConsulTarget("inference", agent="[::1]:8500")),
        (
            "consul:///inference?tag=blue&model=net.v2&tag=eu",
            ConsulTarget("inference", tags=("blue", "eu"), model="net.v2"),
        ),
        ("consul:///inference?model=r%C3%A9seau", ConsulTarget("inference", model="réseau")),
    ],
)
def test_what_a_target_means(target: str, meaning: Target) -> None:
    assert parse(target) == meaning


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("", "the target is empty: expected host:port"),
        ("  ", "the target is empty"),
        ("localhost", "'localhost' has no port: expected host:port, such as localhost:8001"),
        ("[::1]", "has no port"),
        ("::1:8001", "in brackets"),
        (":8001", "no valid host"),
        ("a b:8001", "no valid host"),
        ("[nonsense]:1", "no valid host"),
        ("a:", "'' is no port"),
        ("a:http", "'http' is no port"),
        ("a:0", "'0' is no port: expected a number between 1 and 65535"),
        ("a:65536", "'65536' is no port"),
        ("a:-1", "'-1' is no port"),
        ("a:١", "'١' is no port"),
        ("a:1,", "empty place between its commas"),
        ("a:1,,b:2", "empty place between its commas"),
        ("consul:inference", "a consul target begins with consul:///"),
        ("dns:host", "a dns target begins with dns:///"),
        ("http://a:8001", "an address has no scheme; write a:8001"),
        ("grpc://a:8001", "an address has no scheme; write a:8001"),
        ("cosnul:///inference", "did you mean 'consul'"),
        ("unix:", "has no path of a socket"),
        ("unix://run/headrace.sock", "after unix:// an absolute path is expected"),
        ("a:1,unix:/run/", "'unix:/run/' has no path of a socket"),
        ("dns://8.8.8.8/host:8001", "three slashes"),
        ("dns://host:8001", "three slashes: dns:///host:8001"),
        ("dns:///host", "'host' has no port"),
        ("dns:///host:8001?tag=a", "has no query"),
        ("consul://", "names no service"),
        ("consul:///", "names no service"),
        ("consul://inference", "names no service"),
        ("consul://agent/inference", "'agent' has no port"),
        ("consul:///a/b", "one name, without /"),
        ("consul:///a#b", "one name, without /"),
        ("consul:///a?tags=x", "'tags' is no query key (did you mean 'tag'?)"),
        ("consul:///a?colour=x", "'colour' is no query key: expected tag, model"),
        ("consul:///a?tag=", "tag='': expected some text"),
        ("consul:///a?tag", "tag='': expected some text"),
        ('consul:///a?model=x"y', 'without " and \\'),
        ("consul:///a?model=x&model=y", "asks for two models"),
        ("consul://[::1/a", "Invalid IPv6 URL"),
    ],
)
def test_a_target_that_means_nothing_is_refused_with_what_would(target: str, told: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the text is compared below, as it stands
        parse(target)
    assert told in str(refusal.value)


@given(st.text())
def test_any_text_is_a_target_or_a_value_error(text: str) -> None:
    try:
        target = parse(text)
    except ValueError:
        return
    if isinstance(target, StaticTarget):
        assert target.addresses
        assert parse(",".join(target.addresses)) == target


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_ip_address_can_be_written(address: object, port: int) -> None:
    host = str(address)
    written = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert split_address(written) == (host, port)
    assert parse(written) == StaticTarget((written,))
