"""Says what there is on a machine with a GPU, and whether what is carried there can be imported.

found.py NEEDS, a file of JSON that `site.sh` writes. The exit code is 2 where it cannot, and the last line
says why. An interpreter that is too old has to come as far as saying so: nothing in here is new to Python.
"""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_MISSING = 2
_PATIENCE_SECONDS = 20
_BESIDE = ("onnx", "onnxruntime-gpu")


def main() -> None:
    """Print it, a line each."""
    needs = json.loads(Path(sys.argv[1]).read_text())
    tell(f"Python {platform.python_version()} ({sys.executable}), {platform.machine()}, glibc {_glibc()}")
    why = _unfit(needs)
    if not why:
        cuda = _cuda_version()
        tell(f"GPU: {_gpus()}; the driver knows CUDA {cuda or '- there is none'}")
        if cuda and cuda < needs["cuda"]:
            tell(f"the driver is too old for what is carried, made for CUDA {needs['cuda']}: expect no plan")
        versions = {name: _version(name) for name in (*needs["packages"], *_BESIDE)}
        there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        tell(f"there: {there or 'no library'}; carried: TensorRT for RTX {needs['tensorrt_rtx']}")
        lacking = [name for name in needs["packages"] if not (versions[name] or versions.get(f"{name}-gpu"))]
        if lacking:
            why = f"{' and '.join(lacking)} must be installed for {sys.executable}: they are not carried"
    if why:
        tell(why)
        sys.exit(_MISSING)


def tell(line: str) -> None:
    """Print a line at once."""
    print(f"gpu-check: {line}", file=sys.stderr, flush=True)


def _unfit(needs: dict[str, Any]) -> str:
    """Return why nothing that is compiled can be imported; "" if it can."""
    version = ".".join(platform.python_version_tuple()[:2])
    if version != needs["python"]:
        wanted = needs["python"]
        tags = [f"cp{one.replace('.', '')}" for one in (wanted, version)]
        return (
            f"what is carried is for Python {wanted} ({tags[0]}), and this is {version} ({tags[1]}): "
            f"name one that fits, as PYTHON=python{wanted} bash ..."
        )
    if platform.machine() != needs["machine"]:
        return f"what is carried is for {needs['machine']}, and this is {platform.machine()}"
    if _parts(_glibc()) < _parts(needs["glibc"]):
        return f"what is carried needs glibc {needs['glibc']} or newer, and this is {_glibc()}"
    return ""


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _glibc() -> str:
    return platform.libc_ver()[1] or "0"


def _gpus() -> str:
    """Return the GPUs and the driver by nvidia-smi, which some machines lack beside their driver."""
    command = [
        "nvidia-smi",
        "--query-gpu=name,compute_cap,memory.total,driver_version",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not known ({type(error).__name__}: {error})"
    return "; ".join((done.stdout or done.stderr).split("\n")).strip("; ") or "none"


def _cuda_version() -> float:
    """Return the newest CUDA that the driver knows, as 13.0; 0 without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0.0
    found = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(found)):
        return 0.0
    return round(found.value // 1000 + found.value % 1000 / 100, 1)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
