"""Both drivers call functions that their libraries really have, with arguments that these really take.

The libraries are those that are installed, over a CUDA that is the host, in a process of its own: what a
library finds of CUDA when it is first asked stays for the life of the process. PyCUDA has no wheel on the
Python index: the one that `make pycuda` builds is taken where none is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import host_gpu
import pytest

from headrace_engines.runtime.cuda import bindings, cuda_python_driver, faults, pycuda_driver
from headrace_engines.runtime.cuda.driver import Fault

SUPPORT = Path(host_gpu.__file__).parent
WHEELS = Path(__file__).parents[2] / ".tools" / "pycuda"
PATIENCE_SECONDS = 60
LIBRARIES = {cuda_python_driver: "cuda", pycuda_driver: "pycuda"}
CHECKS = [check.__name__ for check in host_gpu.CHECKS]

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")


def python(
    paths: Sequence[str], *arguments: str, variables: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Execute Python with these paths for modules, and with these variables besides."""
    path = f"PYTHONPATH={os.pathsep.join(filter(None, paths))}"
    command = ["env", path, *variables, sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


@pytest.fixture(scope="session")
def pycuda(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Return the folder that has pycuda: an installed one, or the wheel for this Python, unpacked."""
    installed = importlib.util.find_spec("pycuda")
    if installed is not None and installed.origin is not None:
        return Path(installed.origin).parents[1]
    for wheel in WHEELS.glob(f"pycuda-*-cp{sys.version_info[0]}{sys.version_info[1]}-*.whl"):
        folder = tmp_path_factory.mktemp("pycuda")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        return folder
    return None


@pytest.fixture(scope="session")
def host_cuda(tmp_path_factory: pytest.TempPathFactory, pycuda: Path | None) -> Path:
    """Compile the CUDA that is the host, with each function that pycuda wants at its start."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("cuda")
    wanted: set[bytes] = set()
    for extension in (pycuda or folder).glob("pycuda/_driver*.so"):
        wanted |= set(re.findall(rb"\0(cu[A-Z]\w+)(?=\0)", extension.read_bytes()))
    rest = folder / "rest.c"
    refused = (
        f"__attribute__((weak)) int {name.decode()}(void) {{ return 801; }}" for name in sorted(wanted)
    )
    rest.write_text("\n".join((*refused, "")))
    command = [compiler, "-shared", "-fPIC", "-w", "-fno-builtin", "-Wl,-soname,libcuda.so.1"]
    sources = [str(SUPPORT / "host_libcuda.c"), str(rest)]
    subprocess.run([*command, "-o", str(folder / "libcuda.so.1"), *sources, "-ldl"], check=True)
    return folder


@pytest.fixture(scope="session", params=LIBRARIES, ids=LIBRARIES.values())
def results(request: pytest.FixtureRequest, host_cuda: Path, pycuda: Path | None) -> dict[str, str]:
    """What each check met with one of the drivers."""
    name = request.param.__name__.rpartition(".")[2]
    paths = [*sys.path]
    if request.param is pycuda_driver:
        if pycuda is None:
            pytest.skip("there is no pycuda; `make pycuda` builds a wheel of it")
        paths.append(str(pycuda))
    ran = python(paths, str(SUPPORT / "host_gpu.py"), name, variables=[f"LD_LIBRARY_PATH={host_cuda}"])
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


@pytest.mark.parametrize("check", CHECKS)
def test_a_driver_does_what_is_asked_of_it(results: dict[str, str], check: str) -> None:
    assert results.get(check, "an earlier one failed") == ""


def test_each_name_is_one_of_cuda_pythons() -> None:
    driver = importlib.import_module("cuda.bindings.driver")
    for module in (bindings, cuda_python_driver):
        source = Path(str(module.__file__)).read_text()
        names = set(re.findall(r"\b(?:driver|_cuda)\.(cu\w+|CU\w+)", source))
        assert len(names) > 10
        assert {name for name in names if not hasattr(driver, name)} == set()


def test_the_errors_that_spoil_are_cudas() -> None:
    driver = importlib.import_module("cuda.bindings.driver")
    assert faults.spoiling() <= {status.name for status in driver.CUresult}


class PycudaError(Exception):
    """What PyCUDA's classes of errors have in common."""


class PycudaMemoryError(PycudaError):
    """As PyCUDA raises it without memory."""


class PycudaLaunchError(PycudaError):
    """As PyCUDA raises it for a kernel that failed."""


@pytest.mark.parametrize(
    ("error", "met", "name"),
    [
        (PycudaError("cuMemFree failed: invalid argument - own words"), None, "CUDA_ERROR_INVALID_VALUE"),
        (PycudaError("cuX failed: an illegal memory access"), None, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (PycudaMemoryError("cuMemAlloc failed: other words"), None, "CUDA_ERROR_OUT_OF_MEMORY"),
        (PycudaLaunchError("cuCtxSynchronize failed: other words"), None, "CUDA_ERROR_LAUNCH_FAILED"),
        (PycudaError("handle is of another context"), None, "PycudaError"),
        (PycudaError("cuX failed: other words"), "CUDA_ERROR_ASSERT", "CUDA_ERROR_ASSERT"),
    ],
)
def test_what_pycuda_raises_is_the_drivers_error_or_a_calls(
    monkeypatch: pytest.MonkeyPatch, error: Exception, met: str | None, name: str
) -> None:
    texts = {
        "invalid argument": "CUDA_ERROR_INVALID_VALUE",
        "an illegal memory access": "CUDA_ERROR_ILLEGAL_ADDRESS",
    }
    monkeypatch.setattr(bindings, "names_by_text", lambda: texts)
    monkeypatch.setattr(bindings, "met", lambda: met)
    classes = SimpleNamespace(MemoryError=PycudaMemoryError, LaunchError=PycudaLaunchError)
    told = pycuda_driver._told(classes, error)
    assert (told.name, told.fault) == (name, faults.fault(name))
    assert (told.fault is Fault.CALL) is (name in {"CUDA_ERROR_INVALID_VALUE", "PycudaError"})


@pytest.mark.parametrize(
    ("name", "uuid"),
    [
        (b"NVIDIA H100 80GB HBM3\0", "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (b"NVIDIA H100 80GB HBM3 MIG 1g.10gb\0", "MIG-00010203-0405-0607-0809-0a0b0c0d0e0f"),
    ],
)
def test_a_part_of_a_gpu_has_a_name_of_its_own(
    monkeypatch: pytest.MonkeyPatch, name: bytes, uuid: str
) -> None:
    attributes = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76
    )
    library = SimpleNamespace(
        CUdevice_attribute=attributes,
        cuDeviceGetCount=lambda: (0, 1),
        cuDeviceGet=lambda index: (0, index),
        cuDeviceGetName=lambda length, gpu: (0, name),
        cuDeviceGetUuid_v2=lambda gpu: (0, SimpleNamespace(bytes=bytes(range(16)))),
        cuDeviceGetAttribute=lambda attribute, gpu: (0, 9 if attribute == 75 else 0),
        cuDeviceTotalMem=lambda gpu: (0, 1 << 30),
        cuDriverGetVersion=lambda: (0, 13000),
    )
    monkeypatch.setattr(bindings, "load", lambda: library)
    (facts,) = bindings.gpus()
    assert facts.uuid == uuid


def test_a_machine_without_a_driver_is_told_as_one() -> None:
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("there is a driver here")
    program = (
        "from headrace_engines.runtime.cuda.gpu import available, why_none; print(available(), why_none())"
    )
    ran = python(sys.path, "-c", program)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("() ")
    assert "cuInit: no driver" in ran.stdout
