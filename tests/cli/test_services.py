from __future__ import annotations

import json
from pathlib import Path

import pytest
from consul_agent import ConsulAgent
from digits import BuiltRepository, serving

from headrace_cli.main import run


def test_instances_are_listed(
    consul_agent: ConsulAgent,
    digits_repository: BuiltRepository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent = f"127.0.0.1:{consul_agent.port}"
    flags = ["--consul", "--consul-required", "--consul-address", agent, "--consul-service", "listed"]
    flags += ["--consul-tags", "[blue]", "--advertise", "127.0.0.1", "--drain-secs", "0"]
    with serving(digits_repository.folder, tmp_path, flags) as address:
        assert run(["services", "listed", "--consul", agent]) == 0
        shown = capsys.readouterr().out
        assert all(text in shown for text in (address, "passing", "digits:1", "[blue]"))
        assert run(["services", "listed", "--consul", agent, "--model", "digits", "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert (found["address"], found["status"]) == (address, "passing")
        assert "[blue]" in found["tags"]
        assert int(found["meta"]["metrics_port"]) > 0
        assert run(["services", "listed", "--consul", agent, "--model", "other"]) == 1
    capsys.readouterr()
    assert run(["services", "listed", "--consul", agent]) == 1
    assert "Consul knows no such instance of 'listed'" in capsys.readouterr().err


def test_who_speaks_tls_is_told(consul_agent: ConsulAgent, capsys: pytest.CaptureFixture[str]) -> None:
    check = {"CheckID": "tls", "TTL": "60s", "Status": "passing"}
    entry = {"Name": "encrypted", "Address": "10.0.0.7", "Port": 8001, "Check": check}
    for told, shown in (("1", "yes"), ("0", "")):
        consul_agent.call("PUT", "agent/service/register", entry | {"Meta": {"tls": told}})
        assert run(["services", "encrypted", "--consul", consul_agent.address]) == 0
        head, row = [line for line in capsys.readouterr().out.splitlines() if "│" in line or "┃" in line]
        column = [title.strip() for title in head.strip("┃").split("┃")].index("TLS")
        assert row.strip("│").split("│")[column].strip() == shown
