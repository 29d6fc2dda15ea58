"""Triton's client with memory of a real GPU, as a program: CUDA shares memory between processes alone.

Given a server's address with the gated model `m`, it prints the elements that were answered into its memory.
"""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import cuda_shared_memory

SENT = np.arange(4, dtype=np.int64).reshape(4, 1)


def main(address: str) -> None:
    region = cuda_shared_memory.create_shared_memory_region("frames", 2 * SENT.nbytes, 0)
    try:
        cuda_shared_memory.set_shared_memory_region(region, [SENT])
        with triton.InferenceServerClient(address) as client:
            handle = cuda_shared_memory.get_raw_handle(region)
            client.register_cuda_shared_memory("frames", handle, 0, 2 * SENT.nbytes)
            given = triton.InferInput("x", SENT.shape, "INT64")
            given.set_shared_memory("frames", SENT.nbytes)
            wanted = triton.InferRequestedOutput("y")
            wanted.set_shared_memory("frames", SENT.nbytes, SENT.nbytes)
            client.infer("m", [given], outputs=[wanted])
            client.unregister_cuda_shared_memory("frames")
        found = cuda_shared_memory.get_contents_as_numpy(region, np.int64, [8])
        print(*found[4:])
    finally:
        cuda_shared_memory.destroy_shared_memory_region(region)


if __name__ == "__main__":
    main(sys.argv[1])
