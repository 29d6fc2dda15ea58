from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace_cli.main import run
from headrace_server.config import OPTIONS


def test_every_setting_is_a_flag_but_for_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    run(["serve", "--help"])
    shown = capsys.readouterr().out
    flags = set(re.findall(r"(?<=\s)--[a-z0-9-]+", shown))
    variables = "".join(shown.split())  # a long one is broken across lines
    for option in OPTIONS:
        assert (option.flag in flags) is not option.secret
        assert option.variable in variables


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--max-batch-size", "0"], 2, "--max-batch-size: 0 is out of range"),
        (["--log-level", "loud"], 2, "--log-level: 'loud' is not one of"),
        (["--config", "nowhere.toml"], 2, "cannot read the configuration file nowhere.toml"),
    ],
)
def test_wrong_settings_name_their_origin(
    arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *arguments]) == code
    assert told in capsys.readouterr().err


def test_a_file_of_settings_is_read_and_flags_go_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('grpc_port = "seven"\nmax_batch_size = 0\n')
    assert run(["serve", "--config", str(file)]) == 2
    assert f"grpc_port in {file}: 'seven'" in capsys.readouterr().err
    assert run(["serve", "--config", str(file), "--grpc-port", "0"]) == 2
    assert f"max_batch_size in {file}: 0 is out of range" in capsys.readouterr().err


def test_the_settings_are_shown_with_their_origins_and_nothing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "geheim")
    nowhere = tmp_path / "nowhere"
    assert run(["serve", "--show-config", "--model-repository", str(nowhere), "--grpc-port", "7"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"grpc_port +│ 7 +│ --grpc-port ", shown)
    assert re.search(r"max_batch_size +│ 64 +│ default ", shown)
    assert "CONSUL_HTTP_TOKEN" in shown
    assert "geheim" not in shown
    assert run(["serve", "--show-config", "--grpc-port", "70000"]) == 2
