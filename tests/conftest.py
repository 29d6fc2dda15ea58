"""Fixtures that tests of several packages share live in tests/support, one module a subject."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))

import hosted_server
import server_process
from hypothesis import settings

from headrace_server.transport.choice import TransportKind

pytest_plugins = ["consul_agent", "digits", "onnx_models", "pki"]

# How long an example takes says how busy the machine is.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    choices = [kind.value for kind in TransportKind]
    parser.addoption("--grpc-transport", choices=choices, default="auto", help="what serves in the tests")


def pytest_configure(config: pytest.Config) -> None:
    kind = TransportKind(config.getoption("--grpc-transport"))
    hosted_server.kind = kind
    server_process.transport = kind.value
