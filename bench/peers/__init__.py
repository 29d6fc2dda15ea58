"""What a user could take instead, on the same models: by name with `--servers`, or all with `--full`.

Each runs the model with ONNX Runtime on the CPU, one intra-op thread, one instance, batches of at most
64. `python -m bench.peers.setup` installs those that need packages of their own.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.models import Network
from bench.servers import Kind

FOLDER: Final = Path(__file__).parents[2] / ".cache" / "peers"
"""Holds a virtual environment for each peer that needs one."""

REQUIREMENTS: Final = {
    "mosec": ("mosec", "numpy", "onnxruntime"),
    "triton": ("nvidia-pytriton==0.7.0", "numpy", "onnxruntime"),  # Triton's server is inside this wheel
}
"""What goes into each virtual environment."""

_HERE: Final = Path(__file__).parent
_QUEUE_DELAY_US: Final = 1000


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's virtual environment."""
    return FOLDER / peer / "bin" / "python"


def is_installed(kind: Kind) -> bool:
    """Tell whether the peer can be started here."""
    environment = kind.name.partition("-")[0]
    return environment not in REQUIREMENTS or python_of(environment).exists()


def _onnx(repository: Path, model: Network) -> Path:
    return repository / model.name / "1" / "model.onnx"


def _aio(module: str, repository: Path, model: Network, port: int) -> list[object]:
    program = [sys.executable, "-m", f"bench.peers.{module}", "--model", model.name]
    return [*program, "--file", _onnx(repository, model), "--port", port]


def _mosec(repository: Path, model: Network, port: int) -> list[object]:
    program = _HERE / "mosec_server.py"
    shape = ",".join(map(str, model.shape))
    return [
        "env", f"MODEL={_onnx(repository, model)}", f"SHAPE={shape}", python_of("mosec"), program,
        "--address", "127.0.0.1", "--port", port, "--timeout", 60000, "--log-level", "warning",
    ]  # fmt: skip


def _triton(delay_us: int, repository: Path, model: Network, port: int) -> list[object]:
    program = [sys.executable, "-m", "bench.peers.triton", "--model", model.name]
    return [*program, "--file", _onnx(repository, model), "--port", port, "--delay-us", delay_us]


PEERS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("aio-unbatched", functools.partial(_aio, "aio_unbatched"), has_streams=True),
        Kind("aio-batched", functools.partial(_aio, "aio_batched")),
        Kind("mosec", _mosec, path="/inference", is_grpc=False),
        Kind("triton", functools.partial(_triton, _QUEUE_DELAY_US), has_streams=True, has_statistics=True),
        Kind("triton-d0", functools.partial(_triton, 0), has_streams=True, has_statistics=True),
    )
}
