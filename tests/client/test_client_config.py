from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace import Client
from headrace.config import ConsulSettings, Retry, Settings, Tls, consul_settings


def test_consul_from_the_environment() -> None:
    environment = {
        "CONSUL_HTTP_ADDR": "https://consul:8501",
        "CONSUL_HTTP_TOKEN": "secret",
        "CONSUL_CACERT": "ca.pem",
        "CONSUL_CLIENT_CERT": "cert.pem",
        "CONSUL_CLIENT_KEY": "key.pem",
        "CONSUL_NAMESPACE": "team",
    }
    settings = consul_settings(environment)
    assert settings == ConsulSettings(
        "https://consul:8501", "secret", "ca.pem", "cert.pem", "key.pem", "team"
    )
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("environment", [{}, {"CONSUL_HTTP_ADDR": "", "CONSUL_HTTP_TOKEN": ""}])
def test_consul_where_nothing_is_set(environment: dict[str, str]) -> None:
    assert consul_settings(environment) == ConsulSettings()


def test_consul_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "10.0.0.9:8500")
    assert consul_settings().address == "10.0.0.9:8500"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"attempts": 0}, "attempts"),
        ({"backoff_seconds": -1}, "backoff_seconds"),
        ({"max_backoff_seconds": float("nan")}, "max_backoff_seconds"),
        ({"budget_ratio": -0.1}, "budget_ratio"),
        ({"budget_burst": -1}, "budget_burst"),
    ],
)
def test_retries_that_make_no_sense(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Retry(**wrong)


@pytest.mark.parametrize("field", ["timeout_seconds", "keepalive_seconds"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_times_that_make_no_sense(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Settings(**{field: value})


def test_a_call_may_have_its_own_time() -> None:
    assert Settings().timeout_of_call(None) == 30.0
    assert Settings(timeout_seconds=None).timeout_of_call(None) is None
    assert Settings(timeout_seconds=None).timeout_of_call(2.0) == 2.0


@pytest.mark.parametrize("seconds", [float("inf"), 1e300, 1e12])
def test_a_time_longer_than_anybody_can_count_is_no_limit(serve: Any, seconds: float) -> None:
    inputs = {"x": np.zeros(1)}
    with Client(serve().address, timeout_seconds=seconds) as client:
        assert client.ready()
        assert client.infer("m", inputs)["x"].tolist() == [0.0]
        ((_, outputs),) = client.stream([(0, inputs)], model="m", timeout_seconds=seconds)
    assert isinstance(outputs, dict)


@pytest.mark.parametrize("files", [{"certificate_file": "c"}, {"key_file": "k"}])
def test_a_certificate_and_its_key_go_together(files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="certificate_file and key_file"):
        Tls(**files)
