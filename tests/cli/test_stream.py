from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headrace_cli.main import run


def test_each_row_is_a_request_and_a_line(
    digits_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    rows = random.integers(0, 17, (300, 64)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    arguments = ["--input", f"@{tmp_path}/rows.npy", "--max-in-flight", "16"]
    assert run(["stream", digits_server, "digits", *arguments]) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert sorted(line["key"] for line in lines) == list(range(300))
    assert "300 answered and 0 failed" in shown.err
    assert run(["call", digits_server, "digits", "--input", json.dumps(rows[7].tolist()), "--json"]) == 0
    (streamed,) = [line["outputs"] for line in lines if line["key"] == 7]
    assert json.loads(capsys.readouterr().out) == streamed


def test_requests_that_fail_are_lines_and_an_exit_code(
    digits_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stream", digits_server, "digits", "--zeros", "--rows", "2", "--output", "nothing"]) == 1
    shown = capsys.readouterr()
    for line in map(json.loads, shown.out.splitlines()):
        assert line["code"] == "INVALID_ARGUMENT"
        assert "no output 'nothing'" in line["error"]
    assert "0 answered and 2 failed" in shown.err
