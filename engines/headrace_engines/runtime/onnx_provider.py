"""An ONNX file as ONNX Runtime's CUDA provider opens it, and which of its operators stay on the CPU."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Final

import onnxruntime

from headrace_engines.declaration import Declaration
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.runtime.onnx_session import CPU, OnnxSession

_log = logging.getLogger(__name__)

PROVIDER: Final = "CUDAExecutionProvider"
_MOST_NAMED: Final = 8
"""Operators that a line of the log names."""
_ENTRIES: Final = {"session.record_ep_graph_assignment_info": "1"}


def available() -> bool:
    """Whether this ONNX Runtime has a CUDA provider; whether it finds its libraries is seen at load."""
    return PROVIDER in onnxruntime.get_available_providers()


class ProviderFile:
    """A model's file, as sessions are opened of it."""

    def __init__(self, path: Path, max_batch_size: int, declaration: Declaration) -> None:
        self._path = path
        self._max_batch_size = max_batch_size
        self._declaration = declaration
        self._is_told = False

    def open(self, gpu: int, stream: int | None) -> OnnxSession:
        """Return a session on the GPU, and in the stream if there is one; inside `Gpu.load`."""
        _preload()
        options = {
            "device_id": str(gpu),
            "arena_extend_strategy": "kSameAsRequested",
            # A search among all algorithms takes seconds for each convolution and batch size.
            "cudnn_conv_algo_search": "HEURISTIC",
            "do_copy_in_default_stream": "1",
            # Nobody has judged what the model answers with rounded factors.
            "use_tf32": "0",
        }
        if stream is not None:
            options["user_compute_stream"] = str(stream)
        session = OnnxSession(
            self._path,
            max_batch_size=self._max_batch_size,
            declaration=self._declaration,
            providers=((PROVIDER, options), *CPU),
            entries=_ENTRIES,
        )
        if PROVIDER not in session.native.get_providers():
            raise UnsupportedModelError(
                f"{self._path.name}: ONNX Runtime's CUDA provider cannot be started: are the CUDA and cuDNN "
                "libraries there that it was built with?"
            )
        return session

    def uses_cpu(self, session: OnnxSession) -> bool:
        """Whether operators stay on the CPU, which the GPU has no kernels for; the log names them once."""
        nodes = [
            f"{node.op_type} {node.name!r}"
            for part in session.native.get_provider_graph_assignment_info()
            if part.ep_name != PROVIDER
            for node in part.get_nodes()
        ]
        if nodes and not self._is_told:
            named = ", ".join(nodes[:_MOST_NAMED]) + (", …" if len(nodes) > _MOST_NAMED else "")
            _log.warning(
                "%s: ONNX Runtime executes %d operators on the CPU, and copies what they take and give, so "
                "that each batch is waited for: %s",
                self._path.name,
                len(nodes),
                named,
            )
        self._is_told = True
        return bool(nodes)


@functools.cache
def _preload() -> None:
    """Load the CUDA libraries that came as packages of Python's, where the provider would not look."""
    onnxruntime.preload_dlls()
