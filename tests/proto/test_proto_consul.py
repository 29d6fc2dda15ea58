import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace_proto.consul import model_key, split_address


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("digits", "model-digits"),
        ("Net-2_b", "model-Net-2_b"),
        ("x" * 122, "model-" + "x" * 122),
        ("net.v2", "model_net_v2-eaf3ed6e"),
        ("a/b c", "model_a_b_c-0af99a60"),
        ("réseau", "model_r_seau-ed2c1c46"),
    ],
)
def test_a_model_becomes_a_key_that_consul_takes(model: str, key: str) -> None:
    assert model_key(model) == key


LIKES = ["a.b", "a_b", "a b", "é", "è", "_", "x" * 122, "x" * 123, "x" * 200, "x" * 199 + "y"]
NAMES = st.sampled_from(LIKES) | st.text("ab._-é", min_size=1) | st.text(min_size=1, max_size=300)


@given(st.sets(NAMES, min_size=2, max_size=20))
@example(set(LIKES))
@example({"a.b", model_key("a.b").removeprefix("model_"), model_key("a.b").removeprefix("model-")})
def test_different_models_have_different_keys(models: set[str]) -> None:
    keys = [model_key(model) for model in models]
    assert len(set(keys)) == len(models)
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,128}", key) for key in keys)


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
