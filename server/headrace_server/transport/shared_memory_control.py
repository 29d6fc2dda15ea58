"""The calls about shared memory: system regions are kept in `Regions`; CUDA regions there are none."""

from __future__ import annotations

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.errors import NotSupported, RegionNotFound
from headrace_server.transport.control import Procedure
from headrace_server.transport.shared_memory import Regions


class SharedMemoryCalls:
    """Answers for one registry of regions."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def procedures(self) -> dict[str, Procedure]:
        """Return the six procedures by name."""
        return {
            "SystemSharedMemoryStatus": Procedure(pb.SystemSharedMemoryStatusRequest, self._status),
            "SystemSharedMemoryRegister": Procedure(
                pb.SystemSharedMemoryRegisterRequest,
                self._register,
                extension="system_shared_memory" if self._regions.allowed else "",
            ),
            "SystemSharedMemoryUnregister": Procedure(
                pb.SystemSharedMemoryUnregisterRequest, self._unregister
            ),
            "CudaSharedMemoryStatus": Procedure(pb.CudaSharedMemoryStatusRequest, _cuda_status),
            "CudaSharedMemoryRegister": Procedure(pb.CudaSharedMemoryRegisterRequest, _cuda_register),
            "CudaSharedMemoryUnregister": Procedure(
                pb.CudaSharedMemoryUnregisterRequest, self._cuda_unregister
            ),
        }

    def _status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for name, region in self._regions.status(request.name).items():
            response.regions[name].name = name
            response.regions[name].key = region.key
            response.regions[name].offset = region.offset
            response.regions[name].byte_size = region.size_bytes
        return response

    def _register(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def _unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _cuda_unregister(
        self, _: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Do nothing where regions are allowed: clients clean up by unregistering whatever there is."""
        self._regions.require()
        return pb.CudaSharedMemoryUnregisterResponse()


def _cuda_status(request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
    if request.name:
        raise RegionNotFound(f"there is no CUDA shared memory region {request.name!r}")
    return pb.CudaSharedMemoryStatusResponse()


def _cuda_register(_: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
    raise NotSupported("CUDA shared memory is not supported")
