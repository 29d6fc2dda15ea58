"""One server over real models, which tests ask and do not change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from hosted_server import HostedServer, connected, hosted
from onnx import TensorProto
from onnx_models import Models

from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_server.core.service import Service
from headrace_server.models.repository import Repository, RepositoryOptions
from headrace_server.models.versions import LoadOptions

IDENTITIES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16, "BYTES": TensorProto.STRING,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conformant:
    """A running server with a model for every datatype (`identity_<datatype>`), and some with traits:
    `mlp`, `embedding`, `ragged`, `alone` (no batch axis), `broken`."""

    server: HostedServer
    folder: Path


def place(repository: Path, name: str, model: Path, version: str = "1") -> None:
    folder = repository / name / version
    folder.mkdir(parents=True)
    shutil.copy(model, folder / "model.onnx")


@pytest.fixture(scope="session")
def conformant(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conformant]:
    folder = tmp_path_factory.mktemp("repository")
    for datatype, kind in IDENTITIES.items():
        place(folder, f"identity_{datatype}", models.unary("Identity", kind))
    place(folder, "mlp", models.mlp(), version="3")
    place(folder, "embedding", models.embedding())
    place(folder, "ragged", models.unary("Identity", TensorProto.FLOAT, ("N", "L"), ("N", "L")))
    place(folder, "alone", models.unary("Identity", TensorProto.FLOAT, (2, 3), (2, 3)))
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    repository = Repository(RepositoryOptions((folder,), load=LoadOptions(max_batch_size=8)))
    repository.open()
    repository.load_all()
    with hosted(Service(repository.catalogue, repository)) as server:
        yield Conformant(server, folder)
    repository.close(10)


@pytest.fixture
def channel(conformant: Conformant) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(conformant.server.address) as channel:
        yield channel


@pytest.fixture
def stub(conformant: Conformant) -> Iterator[InferenceServiceStub]:
    with connected(conformant.server.address) as stub:
        yield stub
