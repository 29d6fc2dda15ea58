"""Memory of the host, in whole pages that the driver can pin.

It is the process's own, and pinned afterwards: when an error has ended the context, it is not pinned any
more, but it is still there for whoever reads or writes an array of it. Memory that the driver allocates goes
with the context, and an access to it then ends the process.
"""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np

from headrace_engines.runtime.cuda import faults
from headrace_engines.runtime.cuda.driver import Bytes

PAGE_BYTES: Final = mmap.PAGESIZE


def pages(size_bytes: int) -> Bytes:
    """Return the first `size_bytes` of fresh pages of zeros, which stay as long as an array of them does.

    Raises CudaError, as the driver would, if the machine has no memory.
    """
    try:
        mapped = mmap.mmap(-1, whole_pages(size_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise faults.error("mmap", "CUDA_ERROR_OUT_OF_MEMORY", str(error)) from error
    if hasattr(mmap, "MADV_DONTFORK"):  # a fork would leave the GPU with pages that this process has no more
        mapped.madvise(mmap.MADV_DONTFORK)
    return np.frombuffer(mapped, np.uint8, size_bytes)


def whole_pages(size_bytes: int) -> int:
    """Return the size in bytes of the pages that hold so many bytes."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
