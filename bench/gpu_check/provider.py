"""ONNX Runtime on the GPU, beside TensorRT: what serves while a plan is being rebuilt."""

from __future__ import annotations

from bench.gpu_check import engine, opening
from bench.gpu_check.cases import find
from bench.gpu_check.record import Record
from bench.gpu_check.setting import Setting
from headrace_engines.runtime import onnxruntime_cuda


def measure(setting: Setting, record: Record, subject: str) -> None:
    """Fill the same tables as plans do with what comes of the case `subject` in ONNX Runtime, if it can."""
    if not onnxruntime_cuda.available():
        record.fact("ONNX Runtime on the GPU", "not here: the one that is installed has no CUDA provider")
        return
    with opening.shared(setting) as gpu:
        engine.tried(
            find(setting, subject), f"{subject} in ONNX Runtime", opening.provider, gpu, setting, record
        )
