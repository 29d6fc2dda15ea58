"""How the process ends: what is flushed, with which code, and whether the interpreter is taken down."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import atexit, sys
sys.path[:] = {path}
from headrace_engines.runtime import lifetimes
from headrace_server.ending import end
atexit.register(lambda: print("taken down"))
print("told")
sys.stderr.write("logged")
{more}
sys.exit(end(75, is_idle={is_idle}))
"""


@pytest.mark.parametrize(
    ("is_idle", "more", "said"),
    [
        pytest.param(True, "", "told\ntaken down\n", id="nothing is left"),
        pytest.param(False, "", "told\n", id="a thread is at work"),
        pytest.param(True, "lifetimes.keep_for_ever(object())", "told\n", id="a context was reset"),
        pytest.param(False, "sys.stdout.close()", "told\n", id="nobody is to be told more"),
    ],
)
def test_what_was_said_is_out_and_the_code_is_right_however_it_ends(
    is_idle: bool, more: str, said: str
) -> None:
    program = _PROGRAM.format(path=sys.path, is_idle=is_idle, more=more)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (75, said, "logged")
