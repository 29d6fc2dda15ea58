"""Builds and judges plans in a process of its own as `headrace_engines.plan_child` does, on a fake GPU.

The file `mode` in the folder of caches says what goes wrong: "crash", "hang", "full", "refuse", "wrong" for a
plan of another model (`other.onnx` there), and "wait" until somebody writes to the pipe `gate` there.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_tensorrt
from fake_cuda import FakeDriver, present
from fake_machine import FakeMachine

from headrace_engines import plan_child
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.plans.nvidia import Library
from headrace_engines.progress import Progress

_VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # noqa: TID251 - what the parent lets this process see


def build(
    model: Path, into: Path, library: Library, settings: Any, *, caches: Path, progress: Progress
) -> None:
    """Write a fake plan; stands for `build_plan`."""
    mode = caches / "mode"
    wrong = mode.read_text() if mode.exists() else ""
    progress("fake build", 0.5)
    with (caches / "builds").open("a") as builds:
        builds.write(f"{model.name} {library.version} {_VISIBLE}\n")
    if wrong == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if wrong == "hang":
        (caches / "hangs").write_text(str(os.getpid()))
        signal.pause()
    if wrong == "wait":
        (caches / "gate").read_bytes()
    if wrong == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if wrong == "refuse":
        raise UnsupportedModelError(f"{model.name}: TensorRT's parser refuses it")
    source = caches / "other.onnx" if wrong == "wrong" else model
    most = settings.batch_sizes[-1]
    made = fake_tensorrt.plan_of(source, into.parent, by=library, batches=[(1, most, most)])
    if made != into:
        shutil.move(made, into)


def main() -> None:
    plan_child.build_plan = build  # type: ignore[attr-defined]  # no library builds here
    with ExitStack() as stack:
        driver = stack.enter_context(FakeDriver())
        stack.enter_context(present(driver))
        plan_child.main(FakeMachine(driver))


if __name__ == "__main__":
    main()
