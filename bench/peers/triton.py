"""Starts Triton's server out of nvidia-pytriton's wheel, with its Python backend, on one model.

That server's CPU build has no ONNX Runtime backend, so the model runs in Triton's Python backend; with
a native one it would be faster.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.models import MODELS
from bench.peers import python_of

_CONFIG: Final = """
backend: "python"
max_batch_size: 64
input [{{ name: "x" data_type: TYPE_FP32 dims: [{dims}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{classes}] }}]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
instance_group [{{ count: 1 kind: KIND_CPU }}]
parameters {{ key: "model" value {{ string_value: "{file}" }} }}
parameters {{ key: "packages" value {{ string_value: "{packages}" }} }}
"""


def main() -> None:
    """Write Triton's folders and become its server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-us", type=int, required=True, help="longest wait for a fuller batch")
    given = parser.parse_args()
    packages = next((python_of("triton").parents[1] / "lib").glob("python3*/site-packages"))
    folder = Path(tempfile.mkdtemp(prefix="triton-", dir=given.file.parents[3]))
    _write_backend(folder, packages)
    _write_model(folder, packages, given)
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{_library_folder()}"
    server = packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    # The stub takes for its home that of the python3 which it finds on PATH.
    os.execvp(
        "sh",
        ["sh", "-c", 'PATH="$0:$PATH" exec "$@"', str(python_of("triton").parent),
         "env", f"LD_LIBRARY_PATH={libraries}", f"PYTHONPATH={packages}", str(server),
         f"--model-repository={folder / 'models'}", f"--backend-directory={folder / 'backends'}",
         "--grpc-address=127.0.0.1", f"--grpc-port={given.port}",
         "--allow-http=false", "--allow-metrics=false"],
    )  # fmt: skip


def _write_backend(folder: Path, packages: Path) -> None:
    """Copy the Python backend, with the stub for this version of Python."""
    parts = packages / "pytriton" / "tritonserver"
    backend = folder / "backends" / "python"
    shutil.copytree(parts / "backends" / "python", backend)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(parts / "python_backend_stubs" / version / "triton_python_backend_stub", backend)


def _write_model(folder: Path, packages: Path, given: argparse.Namespace) -> None:
    version = folder / "models" / given.model / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("triton_model.py"), version / "model.py")
    model = MODELS[given.model]
    config = _CONFIG.format(
        dims=", ".join(map(str, model.shape)), classes=model.classes, delay_us=given.delay_us,
        file=given.file, packages=packages,
    )  # fmt: skip
    (version.parent / "config.pbtxt").write_text(config)


def _library_folder() -> str:
    """Return where libpython is, which the stub loads."""
    ask = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    asked = subprocess.run([python_of("triton"), "-c", ask], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


if __name__ == "__main__":
    main()
