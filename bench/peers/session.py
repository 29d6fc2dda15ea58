"""ONNX Runtime as all peers use it: on the CPU, with one thread."""

from __future__ import annotations

from pathlib import Path

import onnxruntime


def open_session(file: Path) -> onnxruntime.InferenceSession:
    """Load the model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
