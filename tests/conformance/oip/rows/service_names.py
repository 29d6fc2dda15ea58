"""Every procedure under both names of the service."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message
from oip import differences
from oip.build import infer, raw
from oip.case import Case, Code, Difference, ask, case, talk

from headrace_proto.names import SERVICES, TRITON_SERVICE
from headrace_proto.v1 import inference_pb2 as pb

GOOD: Final = infer("identity_FP32", raw("x", "FP32", [[1, 2, 3]]))
PROCEDURES: Final[dict[str, Message]] = {
    "ServerLive": pb.ServerLiveRequest(),
    "ServerReady": pb.ServerReadyRequest(),
    "ModelReady": pb.ModelReadyRequest(name="simple"),
    "ServerMetadata": pb.ServerMetadataRequest(),
    "ModelMetadata": pb.ModelMetadataRequest(name="simple"),
    "ModelInfer": GOOD,
    "ModelConfig": pb.ModelConfigRequest(name="simple"),
    "ModelStatistics": pb.ModelStatisticsRequest(name="simple"),
    "RepositoryIndex": pb.RepositoryIndexRequest(),
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="simple"),
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="another_spare"),
    "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": pb.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryUnregister": pb.CudaSharedMemoryUnregisterRequest(),
    "TraceSetting": pb.TraceSettingRequest(),
    "LogSettings": pb.LogSettingsRequest(),
}
_REFUSED: Final[dict[str, tuple[Message, Code, Difference | None]]] = {
    "SystemSharedMemoryRegister": (
        pb.SystemSharedMemoryRegisterRequest(name="r", key="/headrace_none", byte_size=8),
        Code.INVALID_ARGUMENT,
        differences.REGION_WRONG,
    ),
    "CudaSharedMemoryRegister": (
        pb.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"none", byte_size=8),
        Code.INVALID_ARGUMENT,
        None,
    ),
}


def _differs(service: str, other: Difference | None = None) -> Difference | None:
    return other if service == TRITON_SERVICE else differences.OWN_NAME


CASES: Final[list[Case]] = [
    *(
        case(f"{service}/{name}", ask(f"/{service}/{name}", request, differs=_differs(service)))
        for service in SERVICES
        for name, request in PROCEDURES.items()
    ),
    *(
        case(
            f"{service}/{name}", ask(f"/{service}/{name}", request, code, differs=_differs(service, differs))
        )
        for service in SERVICES
        for name, (request, code, differs) in _REFUSED.items()
    ),
    *(
        case(
            f"{service}/ModelStreamInfer",
            talk(GOOD, method=f"/{service}/ModelStreamInfer", differs=_differs(service)),
        )
        for service in SERVICES
    ),
]
