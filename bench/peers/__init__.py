"""What a user could take instead, on the same models: started by `python -m bench --peers`.

Each runs the model with ONNX Runtime on the CPU, one intra-op thread, one instance, batches of at most
64. `python -m bench.peers.setup` installs those that need packages of their own; until then they are
left out, as is one that speaks HTTP/1.1 where h2load is not there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from bench.load import h2load
from bench.models import Mlp
from bench.servers import Kind

FOLDER: Final = Path(__file__).parents[2] / ".cache" / "peers"
"""Holds a virtual environment for each peer that needs one."""

REQUIREMENTS: Final = {
    "mosec": ("mosec", "numpy", "onnxruntime"),
    "triton": ("nvidia-pytriton==0.7.0", "numpy", "onnxruntime"),  # Triton's server is inside this wheel
}
"""What goes into each virtual environment."""

_HERE: Final = Path(__file__).parent


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's virtual environment."""
    return FOLDER / peer / "bin" / "python"


def kinds() -> list[Kind]:
    """Return the peers that can be measured here: they are installed, and something can load them."""
    known = [
        Kind("aio-batched", _aio_batched),
        Kind("mosec", _mosec, path="/inference", is_grpc=False),
        Kind("triton", _triton, has_statistics=True),
    ]
    return [
        kind
        for kind in known
        if (kind.name not in REQUIREMENTS or python_of(kind.name).exists()) and (kind.is_grpc or h2load())
    ]


def _onnx(repository: Path, model: Mlp) -> Path:
    return repository / model.name / "1" / "model.onnx"


def _aio_batched(repository: Path, model: Mlp, port: int) -> list[object]:
    return [
        sys.executable,
        "-m",
        "bench.peers.aio_batched",
        "--model",
        _onnx(repository, model),
        "--port",
        port,
    ]


def _mosec(repository: Path, model: Mlp, port: int) -> list[object]:
    program = _HERE / "mosec_server.py"
    return [
        "env", f"MODEL={_onnx(repository, model)}", python_of("mosec"), program,
        "--address", "127.0.0.1", "--port", port, "--timeout", 60000, "--log-level", "warning",
    ]  # fmt: skip


def _triton(repository: Path, model: Mlp, port: int) -> list[object]:
    return [
        sys.executable, "-m", "bench.peers.triton", "--model", _onnx(repository, model), "--name", model.name,
        "--features", model.features, "--classes", model.classes, "--port", port,
    ]  # fmt: skip
