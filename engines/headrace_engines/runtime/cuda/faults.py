"""What each error of CUDA's driver leaves usable.

The driver's own documentation says of the second group that the process has to be started again. A fresh
primary context often does; whether it does is tried (`gpu.py`), and where it does not, the device counts as
lost, and then the process ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headrace_engines.runtime.cuda.driver import CudaError, Fault

_FAULTS: Final[Mapping[Fault, tuple[str, ...]]] = {
    Fault.MEMORY: ("CUDA_ERROR_OUT_OF_MEMORY",),
    Fault.CONTEXT: (
        "CUDA_ERROR_INVALID_CONTEXT",
        "CUDA_ERROR_CONTAINED",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_TENSOR_MEMORY_LEAK",
        "CUDA_ERROR_EXTERNAL_DEVICE",
        "CUDA_ERROR_UNKNOWN",
    ),
    Fault.DEVICE: (
        "CUDA_ERROR_DEINITIALIZED",
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "CUDA_ERROR_NO_DEVICE",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "CUDA_ERROR_SYSTEM_NOT_READY",
        "CUDA_ERROR_MPS_CONNECTION_FAILED",
        "CUDA_ERROR_MPS_RPC_FAILURE",
        "CUDA_ERROR_MPS_SERVER_NOT_READY",
        "CUDA_ERROR_MPS_CLIENT_TERMINATED",
    ),
}
_BY_NAME: Final = {name: fault for fault, names in _FAULTS.items() for name in names}


def fault(name: str) -> Fault:
    """Return what the error of this name leaves usable; everything, if it is none of those that spoil."""
    return _BY_NAME.get(name, Fault.CALL)


def error(call: str, name: str, text: str = "") -> CudaError:
    """Return the error of this name that the driver's function `call` met."""
    return CudaError(call, name, fault(name), text)


def spoiling() -> frozenset[str]:
    """Return the names of the errors that leave less than everything usable."""
    return frozenset(_BY_NAME)
