from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.listen_address import ListenAddress, parse


@pytest.mark.parametrize(
    ("text", "address", "told"),
    [
        ("127.0.0.1:8001", ListenAddress("127.0.0.1", 8001), "127.0.0.1:8001"),
        ("localhost:0", ListenAddress("localhost", 0), "localhost:0"),
        ("[::1]:9", ListenAddress("::1", 9), "[::1]:9"),
        ("unix:/run/a.sock", ListenAddress(path="/run/a.sock"), "unix:/run/a.sock"),
        ("unix:a.sock", ListenAddress(path="a.sock"), "unix:a.sock"),
        ("unix:///run/a.sock", ListenAddress(path="/run/a.sock"), "unix:/run/a.sock"),
        ("unix:/" + "a" * 106, ListenAddress(path="/" + "a" * 106), "unix:/" + "a" * 106),
    ],
)
def test_an_address_is_read_and_written(text: str, address: ListenAddress, told: str) -> None:
    assert parse(text) == address
    assert str(address) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' has no port: expected HOST:PORT or unix:PATH"),
        ("host", "'host' has no port"),
        ("host:", "'' is no port, 0 to 65535 are"),
        ("host:65536", "'65536' is no port"),
        ("host:-1", "'-1' is no port"),
        ("host:¹", "'¹' is no port"),
        (":8001", "no valid host before its port"),
        ("http://host:8001", "no valid host before its port"),
        ("::1:8001", "an IPv6 address is written in brackets"),
        ("[::1", "no valid host before its port"),
        ("[host]:1", "'host' is no IPv6 address"),
        ("unix:", "has no path of a socket"),
        ("unix:/run/", "has no path of a socket"),
        ("unix://run/a.sock", "after unix:// an absolute path is expected"),
        ("unix:/" + "a" * 107, "the path has 108 bytes, a socket's may have 107"),
        ("unix:/" + "ä" * 60, "the path has 121 bytes"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse(text)


@given(st.text())
def test_any_text_is_an_address_that_reads_the_same_or_is_refused(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address
