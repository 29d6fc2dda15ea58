import re

import pytest

from headrace_proto.names import CONSUL_META_KEY_CHARACTERS, consul_model_key, model_health_name


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
    assert consul_model_key(model) == key


def test_a_long_name_is_cut_to_the_length_that_consul_takes() -> None:
    key = consul_model_key("x" * 200)
    assert len(key) == CONSUL_META_KEY_CHARACTERS
    assert re.fullmatch("[A-Za-z0-9_-]+", key)


def test_health_names_tell_a_model_and_a_version_apart() -> None:
    assert model_health_name("digits") == "model:digits"
    assert model_health_name("digits", "3") == "model:digits:3"
