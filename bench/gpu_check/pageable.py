"""Copies from and to memory that is not pinned, which no engine makes: the driver moves them in pieces."""

from __future__ import annotations

import importlib
from typing import Any

from headrace_engines.runtime.cuda.driver import Bytes


class Pageable:
    """CUDA's synchronous copies, in the context that is the calling thread's."""

    def __init__(self) -> None:
        """Raises ImportError without cuda-python."""
        self._cuda: Any = importlib.import_module("cuda.bindings.driver")

    def copy_in(self, address: int, host: Bytes) -> None:
        """Copy all of `host` to the GPU. Raises RuntimeError naming CUDA's error."""
        self._check(self._cuda.cuMemcpyHtoD(address, host.ctypes.data, host.nbytes))

    def copy_out(self, host: Bytes, address: int) -> None:
        """Fill all of `host` from the GPU. Raises RuntimeError naming CUDA's error."""
        self._check(self._cuda.cuMemcpyDtoH(host.ctypes.data, address, host.nbytes))

    def _check(self, said: Any) -> None:
        if int(said[0]):
            raise RuntimeError(f"CUDA says {said[0].name}")
