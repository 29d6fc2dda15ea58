from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from consul_agent import ConsulAgent
from digits import BuiltRepository, headrace

STOP_SECONDS = 30


@contextmanager
def demo(built: BuiltRepository, folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo; on the way out it must be gone, and all that it started."""
    arguments = headrace("demo", "--workdir", str(folder), "--cache", str(built.cache), *flags)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(STOP_SECONDS)
    assert not running_in(folder)


def running_in(folder: Path) -> list[str]:
    """The command lines of processes that serve the demo's models or write its logs."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            logs = (process / "fd" / "2").readlink()
        except OSError:
            continue
        if str(folder) in line or logs.is_relative_to(folder):
            lines.append(line)
    return lines


def output_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """The lines of the demo up to one that holds the text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if text in line:
            return lines
    raise AssertionError(f"the demo ended before {text!r}: {lines}")


def commands_of(process: subprocess.Popen[str]) -> list[Sequence[str]]:
    """The three commands that the demo offers; `headrace` becomes the one that is tested."""
    assert process.stdout is not None
    offered = [shlex.split(process.stdout.readline()) for _ in range(3)]
    assert all(Path(words[0]).name == "headrace" for words in offered)
    return [headrace(*words[1:]) for words in offered]


def test_the_demo_with_consul_serves_until_it_is_told_to_stop(
    digits_repository: BuiltRepository, consul_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    with demo(digits_repository, tmp_path, "--consul-program", consul_binary) as process:
        told = "\n".join(output_until(process, "Try these"))
        assert "✗" not in told
        assert re.search(r"7190 requests, each answered exactly once", told)
        assert re.search(r"Consul knows headrace-demo-\S+, passing, models digits:1", told)
        for figure in (
            "accuracy FP32",
            "accuracy INT8",
            "times faster",
            "a second",
            "mean batch",
            "p50 / p99",
        ):
            assert figure in told
        call, stream, services = commands_of(process)
        assert "probabilities FP32 [1, 10]" in subprocess.check_output(call, text=True)
        assert len(subprocess.check_output(stream, text=True).splitlines()) == 719
        assert "passing" in subprocess.check_output(services, text=True)
        process.send_signal(signal.SIGINT)
        rest = "\n".join(output_until(process, "checks held"))
        assert "the server's exit code is 0" in rest
        assert "it has left Consul" in rest
        assert process.wait(STOP_SECONDS) == 0


def test_the_demo_uses_the_agent_that_the_environment_names(
    digits_repository: BuiltRepository,
    consul_agent: ConsulAgent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", f"127.0.0.1:{consul_agent.port}")
    with demo(digits_repository, tmp_path, "--exit") as process:
        told = "\n".join(output_until(process, "checks held"))
        assert "an agent is running already" in told
        assert "consul:///headrace-demo?model=digits" in told
        assert "✗" not in told
        assert process.wait(STOP_SECONDS) == 0


def test_the_demo_without_consul_says_so_and_goes_on(
    digits_repository: BuiltRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    with demo(digits_repository, tmp_path, "--consul-program", "no-such-consul", "--exit") as process:
        told = output_until(process, "checks held")
        assert len([line for line in told if "going on without" in line]) == 1
        assert "✗" not in "\n".join(told)
        assert process.wait(STOP_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_leaves_nothing_behind_when_it_is_interrupted(
    number: signal.Signals,
    digits_repository: BuiltRepository,
    consul_binary: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    with demo(digits_repository, tmp_path, "--consul-program", consul_binary) as process:
        output_until(process, "Ask:")
        assert len(running_in(tmp_path)) >= 2
        process.send_signal(number)
        assert process.wait(STOP_SECONDS) == 130


def test_a_server_that_dies_is_told_with_the_end_of_its_log(
    digits_repository: BuiltRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("HEADRACE_MAX_QUEUE_SIZE", "0")
    with demo(digits_repository, tmp_path, "--consul-program", "no-such-consul", "--exit") as process:
        _, told = process.communicate(timeout=60)
        assert process.returncode == 1
    (line,) = [line for line in told.splitlines() if line.startswith("headrace: error:")]
    assert "the server ended" in line
    assert "HEADRACE_MAX_QUEUE_SIZE" in line
