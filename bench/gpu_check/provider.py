"""ONNX Runtime on the GPU, beside TensorRT: what serves while a plan is being rebuilt."""

from __future__ import annotations

from bench.gpu_check import opening
from bench.gpu_check.answers import judge
from bench.gpu_check.cases import find
from bench.gpu_check.engine import speeds
from bench.gpu_check.record import Record
from bench.gpu_check.setting import Setting
from headrace_engines.runtime import onnxruntime_cuda


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the same tables as plans do with what comes of the case `subject` in ONNX Runtime, if it can."""
    if not onnxruntime_cuda.available():
        record.fact("ONNX Runtime on the GPU", "not here: the one that is installed has no CUDA provider")
        return
    case, name = find(setting, subject), f"{subject} in ONNX Runtime"
    with opening.shared(setting) as gpu:
        with record.step("comparing"):
            judge(case, name, opening.provider, gpu, None, setting, record)
        speeds(case, name, opening.provider, gpu, setting, record)
