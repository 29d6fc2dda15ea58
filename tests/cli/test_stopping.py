"""Commands that are told to end while a process of theirs works on a source that never ends."""

from __future__ import annotations

import os
import pickle
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from timeit import timeit
from types import FrameType

import pytest

from headrace_cli.main import run

_ENDLESS = """
import os, signal, time
open({told!r}, "w").write(str(os.getpid()))
os.kill(os.getppid(), signal.{signal})
time.sleep(600)
"""


class _Code:
    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[object, ...]:
        return timeit, (self._code, "pass", perf_counter, 1)


@pytest.fixture(autouse=True)
def unforeseen() -> Iterator[None]:
    """A test that meets SIGTERM unprepared fails, and takes no other along; SIGINT interrupts."""

    def fail(_number: int, _frame: FrameType | None) -> None:
        pytest.fail("nobody was prepared for SIGTERM")

    # What a shell starts in the background is given SIGINT ignored.
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, fail)
    try:
        yield
        assert signal.getsignal(signal.SIGTERM) is fail
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupted)


def _endless(folder: Path, name: str) -> Path:
    """Return a pickle that, once opened, sends its opener's parent this signal and goes on without end."""
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(_Code(_ENDLESS.format(told=str(folder / "process"), signal=name))))
    return path


def _ended(process: int) -> bool:
    """Wait until a process has ended that is no child of this one any more."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 60)[0])
    finally:
        os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system tells nobody of a process that ends")
@pytest.mark.parametrize(
    ("name", "code", "told"), [("SIGTERM", 143, "stopped by SIGTERM"), ("SIGINT", 130, "interrupted")]
)
def test_a_build_that_is_stopped_leaves_nothing(
    name: str, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, models, cache = _endless(tmp_path, name), tmp_path / "models", tmp_path / "caches"
    arguments = ["build", str(source), "--trust", "--into", str(models), "--cache", str(cache)]
    assert run(arguments) == code
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1] == f"headrace: error: {told}: nothing was written into {models}"
    assert len(shown) == 2, "one line says what was done, and one that it was stopped"
    assert _ended(int((tmp_path / "process").read_text()))
    assert not models.exists()
    assert list((cache / "headrace").iterdir()) == []


def test_an_export_that_is_stopped_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "to").mkdir()
    source, to = _endless(tmp_path, "SIGTERM"), tmp_path / "to" / "model.onnx"
    assert run(["export", str(source), str(to), "--trust"]) == 143
    assert capsys.readouterr().err == "headrace: error: stopped by SIGTERM: nothing was written\n"
    assert list(to.parent.iterdir()) == []
