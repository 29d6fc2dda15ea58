"""What runs a model, of which file, and with which parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace_engines.declaration import THREADS
from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.models.model_config_problems import Findings, did_you_mean

ONNX: Final = "onnxruntime_onnx"
TENSORRT: Final = "tensorrt_plan"
PYTHON: Final = "python"
USUAL_FILES: Final = {ONNX: "model.onnx", TENSORRT: "model.plan", PYTHON: "model.py"}
BACKENDS: Final = {ONNX: "onnxruntime", TENSORRT: "tensorrt", PYTHON: "python"}

_PLATFORMS: Final = {name: name for name in USUAL_FILES}
_BY_BACKEND: Final = {backend: platform for platform, backend in BACKENDS.items()}
_EXPORT: Final = 'export the model to ONNX and say backend: "onnxruntime"'
_PROGRAM: Final = "put the work into a Python model"
_UNSUPPORTED: Final = {
    "pytorch": _EXPORT, "pytorch_libtorch": _EXPORT, "tensorflow": _EXPORT, "tensorflow_graphdef": _EXPORT,
    "tensorflow_savedmodel": _EXPORT, "caffe2_netdef": _EXPORT, "openvino": _EXPORT, "fil": _EXPORT,
    "ensemble": "call the models one after the other, or put the steps into a Python model",
    "dali": _PROGRAM, "vllm": "call it from a Python model",
    "tensorrtllm": "call it from a Python model", "mlflow": _EXPORT, "custom": _PROGRAM, "identity": _PROGRAM,
    "repeat": _PROGRAM, "square": _PROGRAM,
}  # fmt: skip
_IN_FORCE: Final = {
    "execution_mode": "0", "inter_op_thread_count": "1", "enable_mem_arena": "1", "enable_mem_pattern": "1",
}  # fmt: skip
"""Options of ONNX Runtime that have one value here, under the names that Triton's backend gives them."""
_ONNX_OPTIONS: Final = (
    "level", "memory.enable_memory_arena_shrinkage", "cudnn_conv_algo_search", "gpu_mem_limit",
    "arena_extend_strategy", "do_copy_in_default_stream", "use_device_id", "user_compute_stream",
)  # fmt: skip
_ONNX_PREFIXES: Final = ("session.", "optimization.", "ep.", "mlas.")


def platform(config: ModelConfig, findings: Findings) -> str:
    """Return the platform; "" where neither platform nor backend is given, or the name of the file tells."""
    by_platform = _named("platform", config.platform, _PLATFORMS, findings)
    by_backend = _named("backend", config.backend, _BY_BACKEND, findings)
    if by_platform and by_backend and by_platform != by_backend:
        findings.report(
            "backend", f"{config.backend} does not run {config.platform}", "one of the two is enough"
        )
    return by_platform or by_backend


def _named(field: str, name: str, known: Mapping[str, str], findings: Findings) -> str:
    if not name or name in known:
        return known.get(name, "")
    hint = _UNSUPPORTED.get(name) or did_you_mean(name, known) or f"there are: {', '.join(known)}"
    findings.report(field, f"{name} is not supported", hint)
    return ""


def file_name(config: ModelConfig, named: str, findings: Findings) -> str:
    """Return the name of the model's file in a version's folder; "" is the platform's usual one."""
    name = config.default_model_filename
    if "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
        findings.report("default_model_filename", f"{name!r} is no name of a file in the version's folder")
        return ""
    return "" if name == USUAL_FILES.get(named or ONNX) else name


def parameters(config: ModelConfig, named: str, findings: Findings) -> Mapping[str, str]:
    """Return the parameters. A program's are its own; where nothing is named, the loaded model tells."""
    given = {key: config.parameters[key].string_value for key in config.parameters}
    if named == PYTHON:
        if (key := "EXECUTION_ENV_PATH") in given:
            hint = "install what the model needs beside the server"
            findings.report(f'parameters["{key}"]', "is not supported", hint)
        return MappingProxyType(given)
    threads = given.get(THREADS, "1")
    if not (threads.isascii() and threads.isdigit() and len(threads) <= 4 and int(threads) <= 1024):
        text = f"{threads!r} came, 0 (a thread for each core) to 1024 expected"
        findings.report(f'parameters["{THREADS}"]', text)
        del given[THREADS]
    if named:
        refuse_options(config, findings)
    return MappingProxyType(given)


def refuse_options(config: ModelConfig, findings: Findings) -> None:
    """Report the options of ONNX Runtime, named as Triton's backend does, that ask for what is not done."""
    for key in config.parameters:
        path, value = f'parameters["{key}"]', config.parameters[key].string_value
        if key in _IN_FORCE:
            if value != _IN_FORCE[key]:
                findings.report(path, f"{value!r} came, {_IN_FORCE[key]} is what is done here", "remove it")
        elif key in _ONNX_OPTIONS or key.startswith(_ONNX_PREFIXES):
            text = "this option of ONNX Runtime is not supported"
            findings.report(path, text, f"remove it; only {THREADS} can be set")
