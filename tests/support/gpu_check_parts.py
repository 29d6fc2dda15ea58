"""A part of gpu-check that ends in whichever way its subject says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.gpu_check.record import Record
    from bench.gpu_check.setting import Setting


def measure(setting: Setting, record: Record, subject: str) -> None:
    record.row("figures", subject=subject, number=1)
    match subject:
        case "fails":
            with record.step("the first"):
                raise ValueError("not\nthis way")
            with record.step("the second"):
                record.row("figures", subject=subject, number=2)
        case "aborts":
            with record.step("aborting"):
                os.abort()
        case "exits":
            with record.step("leaving"):
                sys.exit(3)
        case "hangs":
            with record.step("starting"):
                child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
                record.fact("child", child.pid)
            with record.step("waiting for ever"):
                threading.Event().wait()
        case "ends":
            record.fact("seconds", setting.seconds)
