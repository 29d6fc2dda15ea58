from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from digits import PACKAGES, headrace

from headrace_cli.failure import ExitCode
from headrace_cli.main import COMMANDS, cli, run
from headrace_proto import __version__
from headrace_server.app import GPU_LOST

HEAVY = ("grpc", "numpy", "onnx", "onnxruntime", "httpx", "google.protobuf", "sklearn", "rich", "asyncio")


@pytest.mark.parametrize(
    ("arguments", "unloaded"),
    [
        (["--help"], HEAVY),
        (["--version"], HEAVY),
        (["call", "--help"], HEAVY),
        (["serve", "--help"], HEAVY),
    ],
)
def test_help_does_not_wait_for_libraries(arguments: list[str], unloaded: tuple[str, ...]) -> None:
    program = (
        f"import sys, json; sys.path[:0] = {PACKAGES!r}; from headrace_cli.main import run; "
        f"code = run({arguments!r}); "
        f"print(json.dumps([code, [name for name in {unloaded!r} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert COMMANDS[name] in " ".join(shown.split())
    assert "Examples:" in shown
    assert f"headrace {name}" in shown


def test_every_exit_code_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = re.findall(r"^ +(\d+) +\S", capsys.readouterr().out, re.MULTILINE)
    assert sorted(map(int, told)) == sorted([*ExitCode, GPU_LOST])


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"headrace {__version__}\n"


def test_nothing_typed_is_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "headrace demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["serv"], 2, "No such command 'serv'"),
        (["serve", "--grpc-prot", "1"], 2, "No such option"),
        (["serve", "--grpc-port", "x"], 2, "--grpc-port: 'x' is not a whole number"),
        (["inspect", "/nowhere"], 2, "'/nowhere' does not exist"),
        (
            ["build", "nothing"],
            2,
            "cannot build 'nothing': there is no such file or folder; without one there is: digits",
        ),
        (["build", "digits", "--name", "../x"], 2, "model name '../x'"),
        (["services", "--consul", "ftp://x"], 2, "not by ftp://"),
        (["services", "--consul", "127.0.0.1:1"], 1, "Consul at http://127.0.0.1:1"),
        (["call", "localhost", "m", "--zeros"], 2, "'localhost' has no port"),
        (["call", "127.0.0.1:1", "m", "--zeros", "--timeout", "0"], 2, "Invalid value for '--timeout'"),
        (["call", "127.0.0.1:1", "m", "--zeros"], 1, "UNAVAILABLE from 127.0.0.1:1"),
    ],
)
def test_failures_are_one_line(
    arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("headrace:")]
    assert line.startswith("headrace: error: ")
    assert told in line


def test_debug_shows_where_it_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no model")
    assert run(["inspect", str(broken)]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run(["--debug", "inspect", str(broken)]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("headrace: error: ")


def test_what_nobody_foresaw_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a surprise\nin two lines")

    monkeypatch.setitem(cli.commands, "inspect", cli.command(name="surprise")(fail))
    monkeypatch.setattr(cli, "get_command", lambda context, name: cli.commands["inspect"])
    assert run(["inspect"]) == 1
    assert capsys.readouterr().err == (
        "headrace: error: unexpected RuntimeError: a surprise in two lines (headrace --debug shows where)\n"
    )


def test_output_that_cannot_be_written_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            headrace("serve", "--show-config"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "headrace: error: stdout: no space left on device\n"


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_server_lives_without_a_standard_stream(descriptor: int, tmp_path: Path) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    serve = headrace("serve", "--model-repository", str(tmp_path), "--grpc-port", "0", "--metrics-port", "0")
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {descriptor}>&-', "sh", *serve],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert ("no model could be loaded" in done.stderr) is (descriptor != 2)


def test_an_interrupt_has_its_exit_code() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(headrace("services", "--consul", address), stderr=subprocess.PIPE) as process:
            asked, _ = silent.accept()
            with asked:
                asked.recv(1)
                process.send_signal(signal.SIGINT)
                _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert told.strip() == b"headrace: error: interrupted"


def test_a_reader_that_leaves_is_no_failure_to_tell(digits_server: str) -> None:
    arguments = headrace("stream", digits_server, "digits", "--zeros", "--rows", "20000")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        told = process.stderr.read()
        process.wait(30)
    assert process.returncode == 1
    assert told == b""
