from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headrace_cli.main import run


def test_one_row_is_answered_as_json(digits_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = json.dumps([0] * 64)
    assert run(["call", digits_server, "digits", "--input", f"image={image}", "--json"]) == 0
    (probabilities,) = json.loads(capsys.readouterr().out)["probabilities"]
    assert len(probabilities) == 10
    assert sum(probabilities) == pytest.approx(1, abs=1e-3)


def test_rows_from_a_file_are_answered_for_people(
    digits_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((3, 64), np.float32))
    arguments = ["--input", f"@{tmp_path}/rows.npy", "--output", "probabilities", "--version", "1"]
    assert run(["call", digits_server, "digits", *arguments]) == 0
    first, *values = capsys.readouterr().out.splitlines()
    assert first == "probabilities FP32 [3, 10]"
    assert len(values) == 3


def test_inputs_are_made_up(digits_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["call", digits_server, "digits", "--random", "--rows", "5", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["probabilities"]) == 5


def test_parameters_are_sent(digits_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--parameter", "priority=0", "--parameter", "own=text", "--parameter", "loud=true"]
    assert run(["call", digits_server, "digits", "--zeros", *given]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nothing", "--zeros"], 1, "NOT_FOUND"),
        (["digits", "--zeros", "--version", "99"], 1, "NOT_FOUND"),
        (["digits", "--zeros", "--output", "nothing"], 1, "no output 'nothing'"),
        (["digits"], 2, "no value for image FP32 [-1, 64]; give --input"),
        (["digits", "--input", "[1, 2]"], 2, "image FP32 [-1, 64] does not take shape [1, 2]"),
        (["digits", "--input", "[1]", "--zeros"], 2, "--input and --zeros exclude each other"),
        (["digits", "--zeros", "--random"], 2, "--zeros and --random exclude each other"),
        (["digits", "--zeros", "--timeout", "inf"], 2, "inf came, expected seconds above 0 and up to 86400"),
        (["digits", "--zeros", "--timeout", "nan"], 2, "nan came, expected seconds above 0"),
        (["digits", "--zeros", "--timeout", "0"], 2, "0 came, expected seconds above 0"),
        (["digits", "--zeros", "--rows", "1000"], 1, "batch of 1000 rows came"),
        (["digits", "--zeros", "--parameter", "priority"], 2, "'priority' came, NAME=VALUE expected"),
        (["digits", "--zeros", "--parameter", "priority=1.5"], 1, "'priority': 1.5 came"),
        (["digits", "--zeros", "--parameter", "priority=x=y"], 1, "'priority': 'x=y' came"),
        (["digits", "--zeros", "--parameter", 'priority="1"'], 1, """'priority': '"1"' came"""),
    ],
)
def test_what_is_wrong_is_told(
    digits_server: str, arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["call", digits_server, *arguments]) == code
    assert told in capsys.readouterr().err
