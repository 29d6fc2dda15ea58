"""The calls about shared memory: they keep `Regions`. What waits for a GPU is done beside the transport."""

from __future__ import annotations

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.transport.control import Blocking, Procedure
from headrace_server.transport.cuda_shared_memory import CudaRegion
from headrace_server.transport.regions import Regions
from headrace_server.transport.shared_memory import SystemRegion


class SharedMemoryCalls:
    """Answers for one registry of regions."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def procedures(self) -> dict[str, Procedure]:
        """Return the six procedures by name."""
        regions = self._regions
        return {
            "SystemSharedMemoryStatus": Procedure(pb.SystemSharedMemoryStatusRequest, self._status),
            "SystemSharedMemoryRegister": Procedure(
                pb.SystemSharedMemoryRegisterRequest,
                self._register,
                extension="system_shared_memory" if regions.allowed else "",
            ),
            "SystemSharedMemoryUnregister": Procedure(
                pb.SystemSharedMemoryUnregisterRequest, self._unregister
            ),
            "CudaSharedMemoryStatus": Procedure(pb.CudaSharedMemoryStatusRequest, self._cuda_status),
            "CudaSharedMemoryRegister": Procedure(
                pb.CudaSharedMemoryRegisterRequest,
                self._cuda_register,
                Blocking.BRIEFLY,
                permit=regions.require,
                extension="cuda_shared_memory" if regions.has_gpu else "",
            ),
            "CudaSharedMemoryUnregister": Procedure(
                pb.CudaSharedMemoryUnregisterRequest,
                self._cuda_unregister,
                Blocking.BRIEFLY,
                permit=regions.require,
            ),
        }

    def _status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for name, region in self._regions.status(request.name, SystemRegion).items():
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
        self._regions.unregister(request.name, SystemRegion)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _cuda_status(self, request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        response = pb.CudaSharedMemoryStatusResponse()
        for name, region in self._regions.status(request.name, CudaRegion).items():
            response.regions[name].name = name
            response.regions[name].device_id = region.gpu
            response.regions[name].byte_size = region.size_bytes
        return response

    def _cuda_register(
        self, request: pb.CudaSharedMemoryRegisterRequest
    ) -> pb.CudaSharedMemoryRegisterResponse:
        self._regions.register_cuda(request.name, request.raw_handle, request.device_id, request.byte_size)
        return pb.CudaSharedMemoryRegisterResponse()

    def _cuda_unregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        self._regions.unregister(request.name, CudaRegion)
        return pb.CudaSharedMemoryUnregisterResponse()
