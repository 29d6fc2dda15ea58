import re

import pytest

from headrace_proto.consul import META_KEY_CHARACTERS, model_key, split_address


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("digits", "model-digits"),
        ("net.v2", "model-net_v2"),
        ("a/b c", "model-a_b_c"),
        ("réseau", "model-r_seau"),
    ],
)
def test_a_model_becomes_a_key_that_consul_takes(model: str, key: str) -> None:
    assert model_key(model) == key


def test_a_long_name_is_cut_to_the_length_that_consul_takes() -> None:
    key = model_key("x" * 200)
    assert len(key) == META_KEY_CHARACTERS
    assert re.fullmatch("[A-Za-z0-9_-]+", key)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:8500", ("http", "127.0.0.1", 8500)),
        ("http://consul.internal:81", ("http", "consul.internal", 81)),
        ("http://consul.internal/", ("http", "consul.internal", 8500)),
        ("https://consul.internal", ("https", "consul.internal", 8501)),
        ("[::1]:8500", ("http", "::1", 8500)),
    ],
)
def test_addresses_of_an_agent(address: str, parts: tuple[str, str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("unix:///run/consul.sock", "not by unix://"),
        ("", "is host:port or"),
        ("host:port", "is host:port or"),
        ("host:0", "is host:port or"),
        ("host:70000", "is host:port or"),
        ("[::1:8500", "is host:port or"),
        ("http://host:1/v1", "is host:port or"),
        ("user@host:1", "is host:port or"),
    ],
)
def test_an_address_that_is_none_of_an_agent_is_refused(address: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        split_address(address)
