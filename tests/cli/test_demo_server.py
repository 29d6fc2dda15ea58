from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from headrace_cli.demo.child import Child
from headrace_cli.demo.server import Server
from headrace_cli.failure import CommandError


def test_a_server_that_nobody_reaches_is_told_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as unused, Child("nobody", [sys.executable, "-c", ""], tmp_path / "log") as child:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(
            CommandError, match=rf"^the server at {address} does not answer: failed to connect"
        ):
            Server(child, address).is_ready()
