"""Every name of NVIDIA's libraries that is used exists in them, and takes what it is given.

The engine runs its whole logic over the fake library, so what it uses is what the fake has and the code
names. TensorRT's own bindings come by tools/install-tensorrt-bindings.sh.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import fake_tensorrt_library as library
import pytest

import headrace_engines

_ROOT = Path(__file__).parents[2]
_BINDINGS = _ROOT / ".tools" / "tensorrt-bindings"
_VERSIONS = ("10.13.3.9", "11.4.0.106")
_RUNNING: dict[str, dict[str, int | None]] = {
    "Runtime": {"deserialize_cuda_engine": 1},
    "ICudaEngine": {
        "num_io_tensors": None, "num_optimization_profiles": None, "device_memory_size_v2": None,
        "get_tensor_name": 1, "get_tensor_mode": 1, "get_tensor_dtype": 1, "get_tensor_location": 1,
        "get_tensor_format": 1, "get_tensor_format_desc": 1, "get_tensor_shape": 1,
        "get_tensor_profile_shape": 2, "is_shape_inference_io": 1, "create_execution_context": 1,
    },
    "IExecutionContext": {
        "active_optimization_profile": None, "set_device_memory": 2, "set_optimization_profile_async": 2,
        "set_input_shape": 2, "infer_shapes": 0, "get_tensor_shape": 1, "set_tensor_address": 2,
        "execute_async_v3": 1,
    },
    "ILogger": {"log": 2},
}  # fmt: skip
"""How many arguments the code gives; None for what is no method."""
_RTX: dict[str, dict[str, int | None]] = {
    "ICudaEngine": {"create_runtime_config": 0},
    "IExecutionContext": {"is_stream_capturable": 1},
    "IRuntimeConfig": {
        "set_execution_context_allocation_strategy": 1, "create_runtime_cache": 0, "set_runtime_cache": 1,
        "dynamic_shapes_kernel_specialization_strategy": None,
    },
    "IRuntimeCache": {"serialize": 0, "deserialize": 1},
    "DynamicShapesKernelSpecializationStrategy": {"EAGER": None},
    "BuilderFlag": {"REQUIRE_USER_ALLOCATION": None},
}  # fmt: skip
"""What TensorRT for RTX alone has, and is used of it alone."""
_FAKES = (
    library.FakeRuntime,
    library.FakeEngine,
    library.FakeContext,
    library.FakeRuntimeConfig,
    library.FakeCache,
)
_ENUMS = {
    "TensorIOMode": {"INPUT"},
    "TensorLocation": {"DEVICE"},
    "TensorFormat": {"LINEAR"},
    "ExecutionContextAllocationStrategy": {"USER_MANAGED"},
    "DataType": {"FLOAT", "HALF", "BF16", "INT8", "INT32", "INT64", "UINT8", "BOOL"},
}
_BUILDING = {
    "Builder": {"create_network", "create_builder_config", "create_optimization_profile",
                "build_serialized_network"},
    "INetworkDefinition": {"num_inputs", "get_input"},
    "IBuilderConfig": {"add_optimization_profile", "set_timing_cache", "create_timing_cache",
                       "get_timing_cache", "builder_optimization_level", "progress_monitor",
                       "set_memory_pool_limit", "clear_flag", "set_flag"},
    "IOptimizationProfile": {"set_shape"},
    "OnnxParser": {"parse_from_file", "num_errors", "get_error"},
    "ParserError": {"node_name", "node_operator", "desc"},
    "IProgressMonitor": {"phase_start", "step_complete", "phase_finish"},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
    "MemoryPoolType": {"WORKSPACE"},
    "BuilderFlag": {"TF32", "SPARSE_WEIGHTS"},
    "ITimingCache": {"serialize"},
}  # fmt: skip

Names = dict[str, dict[str, str]]


def _used() -> set[str]:
    """Return every attribute that the modules over the libraries name."""
    folder = Path(headrace_engines.__file__).parent
    files = [*(folder / "runtime" / "tensorrt").glob("*.py"), *(folder / "plans").glob("*.py")]
    return {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
    }


def _names(module: str, folder: Path | None = None) -> Names:
    places = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder / "lib")} if folder else None
    script = _ROOT / "tests" / "support" / "tensorrt_names.py"
    command = [sys.executable, str(script), module]
    done = subprocess.run(command, env=places, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    names: Names = json.loads(done.stdout)
    return names


def _check(names: Names, *tables: dict[str, dict[str, int | None]]) -> None:
    for table in tables:
        for kind, members in table.items():
            for name, count in members.items():
                assert name in names[kind], f"{kind} has no {name}"
                if count is not None:
                    assert count in _arities(name, names[kind][name]), (kind, name, names[kind][name])
    for kind, wanted in (_ENUMS | _BUILDING).items():
        assert wanted <= names[kind].keys(), (kind, wanted - names[kind].keys())


def test_all_that_is_used_is_known_here() -> None:
    """Whatever method of the fake the code names stands in the tables."""
    methods = {name for fake in _FAKES for name, value in vars(fake).items() if inspect.isfunction(value)}
    known = {name for table in (_RUNNING, _RTX) for members in table.values() for name in members}
    assert (_used() & methods) - known <= {"error", "__init__"}


def _arities(name: str, told: str) -> set[int]:
    """Return how many arguments the overloads take that pybind11 tells of."""
    arities: set[int] = set()
    for signature in re.findall(rf"{name}\((self: .*)\) ->", told):
        arguments = re.findall(r", (\w+): ([^,]*(?:\[[^\]]*\])?[^,]*)", signature)
        given = sum("=" not in rest for _, rest in arguments)
        arities |= set(range(given, len(arguments) + 1))
    return arities


@pytest.mark.frameworks
def test_tensorrt_for_rtx_has_what_is_used() -> None:
    pytest.importorskip("tensorrt_rtx", reason="it is not installed: pip install tensorrt_rtx")
    _check(_names("tensorrt_rtx"), _RUNNING, _RTX)


@pytest.mark.parametrize("version", _VERSIONS)
def test_tensorrt_has_what_is_used(version: str) -> None:
    folder = _BINDINGS / version
    if not (folder / "lib" / ".made").exists():
        pytest.skip("TensorRT's bindings are not here: tools/install-tensorrt-bindings.sh fetches them")
    _check(_names("tensorrt_bindings", folder), _RUNNING)
