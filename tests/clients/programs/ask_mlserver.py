"""Asks a server with MLServer's own codecs and stubs, and prints what came as JSON. Run where they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, RequestInput, ResponseOutput

ROWS = np.arange(32, dtype=np.int32).reshape(2, 16)
TEXTS = [StringCodec.encode_input("x", ["a", "", "€"]).model_copy(update={"shape": [1, 3]})]


def pair() -> list[RequestInput]:
    return [NumpyCodec.encode_input(name, ROWS) for name in ("INPUT0", "INPUT1")]


def request(model: str, inputs: list[RequestInput], *, raw: bool = False, name: str = "") -> Any:
    given = InferenceRequest(id=name or None, inputs=inputs)
    return ModelInferRequestConverter.from_types(given, model_name=model, model_version=None, use_raw=raw)


def told(output: ResponseOutput) -> Any:
    if output.datatype == "BYTES":
        return StringCodec.decode_output(output)
    return NumpyCodec.decode_output(output).tolist()


def answer(response: Any) -> dict[str, Any]:
    converted = ModelInferResponseConverter.to_types(response)
    outputs = {one.name: told(one) for one in converted.outputs}
    return {"id": converted.id, "version": converted.model_version, "outputs": outputs}


def failure(stub: Any, model: str) -> list[str]:
    try:
        stub.ModelInfer(request(model, pair()))
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


def loaded(stub: Any, model: str) -> Iterable[bool]:
    """Load and unload a model; tell after each whether it is ready."""
    asked = pb.ModelReadyRequest(name=model)
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=model))
    yield stub.ModelReady(asked).ready
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=model))
    yield stub.ModelReady(asked).ready


def main(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="simple"))
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
        json.dump(
            {
                "live": stub.ServerLive(pb.ServerLiveRequest()).live,
                "ready": stub.ServerReady(pb.ServerReadyRequest()).ready,
                "server": stub.ServerMetadata(pb.ServerMetadataRequest()).name,
                "inputs": [one.name for one in metadata.inputs],
                "simple": [one.state for one in index if one.name == "simple"],
                "loaded": list(loaded(stub, "another_spare")),
                "raw": answer(stub.ModelInfer(request("simple", pair(), raw=True, name="7"))),
                "typed": answer(stub.ModelInfer(request("simple", pair()))),
                "text": answer(stub.ModelInfer(request("identity_BYTES", TEXTS))),
                "not there": failure(stub, "simpel"),
                "bad input": failure(stub, "identity_FP32"),
            },
            sys.stdout,
        )


if __name__ == "__main__":
    main(sys.argv[1])
