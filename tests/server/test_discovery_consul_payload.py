from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.discovery.consul_payload import (
    MAX_META_KEYS,
    MAX_META_VALUE_BYTES,
    meta,
    registration,
    unannounced,
)
from headrace_server.discovery.registry import Check, ServiceEntry

ENTRY = ServiceEntry("10.0.0.5", 8001, models={"resnet50": "3", "bert": "1"}, version="1.2.3", instance="i")


def test_an_entry_in_consuls_words() -> None:
    told = registration(ENTRY)
    assert told["service_id"] == "inference-10.0.0.5-8001"
    assert told["tags"] == ["grpc", "v2"]
    assert told["weights"] == {"Passing": 10, "Warning": 1}
    assert told["replace_existing_checks"] is True
    assert told["meta"] == {
        "models": "bert:1,resnet50:3",
        "model-bert": "1",
        "model-resnet50": "3",
        "version": "1.2.3",
        "proto": "inference.GRPCInferenceService",
        "tls": "0",
        "instance": "i",
    }
    assert told["check"] == {
        "CheckID": "inference-10.0.0.5-8001:ttl",
        "Name": "heartbeat",
        "TTL": "15s",
        "Status": "passing",
        "DeregisterCriticalServiceAfter": "1m",
    }
    assert told["extra_checks"] == [
        {
            "CheckID": "inference-10.0.0.5-8001:grpc",
            "Name": "grpc",
            "GRPC": "10.0.0.5:8001/inference.GRPCInferenceService",
            "GRPCUseTLS": False,
            "TLSSkipVerify": False,
            "Interval": "2s",
            "Timeout": "1s",
            "Status": "passing",
            "DeregisterCriticalServiceAfter": "1m",
        }
    ]


@pytest.mark.parametrize(
    ("checks", "names"),
    [
        (frozenset({Check.GRPC}), ["grpc"]),
        (frozenset({Check.TTL}), ["heartbeat"]),
        (frozenset(Check), ["heartbeat", "grpc"]),
    ],
)
def test_checks_are_those_that_were_chosen(checks: frozenset[Check], names: list[str]) -> None:
    told = registration(ServiceEntry("10.0.0.5", 8001, checks=checks))
    sent: list[dict[str, Any]] = [told["check"], *told["extra_checks"]]
    assert [check["Name"] for check in sent] == names


def test_a_secure_server_at_an_ipv6_address_with_open_metrics() -> None:
    told = registration(
        ServiceEntry("fd00::5", 8001, tags=("a",), tls=True, metrics_port=8002, ttl_seconds=0.5)
    )
    assert told["address"] == "fd00::5"
    assert told["tags"] == ["grpc", "v2", "a"]
    assert told["meta"]["tls"] == "1"
    assert told["meta"]["metrics_port"] == "8002"
    assert told["check"]["TTL"] == "0.5s"
    assert told["extra_checks"][0]["GRPC"].startswith("[fd00::5]:8001/")
    assert told["extra_checks"][0]["GRPCUseTLS"] is True
    assert told["extra_checks"][0]["TLSSkipVerify"] is True


@given(st.dictionaries(st.text(min_size=1), st.text(max_size=600), max_size=90), st.text(max_size=600))
def test_consuls_limits_hold_whatever_the_models_are_called(models: dict[str, str], version: str) -> None:
    entry = ServiceEntry("10.0.0.5", 8001, models=models, version=version, metrics_port=1)
    told = meta(entry)
    assert len(told) <= MAX_META_KEYS
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,128}", key) for key in told)
    assert all(len(value.encode()) <= MAX_META_VALUE_BYTES for value in told.values())
    if unannounced(entry):
        assert len(told) == MAX_META_KEYS


def test_models_that_find_no_room_are_known() -> None:
    models = {f"m{number:02}": "1" for number in range(70)}
    entry = ServiceEntry("10.0.0.5", 8001, models=models)
    assert sorted(unannounced(entry)) == [f"m{number}" for number in range(59, 70)]
    assert unannounced(ENTRY) == {}
