"""A bare grpc.aio server around a coroutine: what one writes by hand, and no more than clients ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import grpc

from bench.models import INPUT, OUTPUT, Network
from headrace_proto.names import TRITON_SERVICE
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1 import model_config_pb2 as config_pb

MAX_BATCH: Final = 64
_NO_LIMIT: Final = [("grpc.max_receive_message_length", -1)]

Infer = Callable[[pb.ModelInferRequest], Awaitable[pb.ModelInferResponse]]


def answer(request: pb.ModelInferRequest, shape: tuple[int, ...], content: bytes) -> pb.ModelInferResponse:
    """Return the response with the rows of the output."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    response.outputs.add(name=OUTPUT, datatype="FP32", shape=shape)
    response.raw_output_contents.append(content)
    return response


async def serve(infer: Infer, model: Network, port: int) -> grpc.aio.Server:
    """Start to answer unary calls, streams, and what perf_analyzer asks about the model."""

    async def call(request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        return await infer(request)

    async def stream(
        requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async for request in requests:
            yield pb.ModelStreamInferResponse(infer_response=await infer(request))

    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=pb.ModelInferRequest.FromString,
            response_serializer=pb.ModelInferResponse.SerializeToString,
        ),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            stream,
            request_deserializer=pb.ModelInferRequest.FromString,
            response_serializer=pb.ModelStreamInferResponse.SerializeToString,
        ),
    }
    for name, constant in _description(model).items():
        handlers[name] = _constant_handler(constant)
    server = grpc.aio.server(options=_NO_LIMIT)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(TRITON_SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server


def _constant_handler(constant: bytes) -> Any:
    async def tell(request: bytes, context: Any) -> bytes:
        return constant

    return grpc.unary_unary_rpc_method_handler(tell)


def _description(model: Network) -> Mapping[str, bytes]:
    """Return the answer of each procedure that tells about the server and its model."""
    metadata = pb.ModelMetadataResponse(name=model.name, versions=["1"], platform="onnxruntime")
    metadata.inputs.add(name=INPUT, datatype="FP32", shape=(-1, *model.shape))
    metadata.outputs.add(name=OUTPUT, datatype="FP32", shape=(-1, model.classes))
    config = config_pb.ModelConfig(name=model.name, platform="onnxruntime", max_batch_size=MAX_BATCH)
    config.input.add(name=INPUT, data_type=config_pb.TYPE_FP32, dims=model.shape)
    config.output.add(name=OUTPUT, data_type=config_pb.TYPE_FP32, dims=(model.classes,))
    return {
        "ServerMetadata": pb.ServerMetadataResponse(name="bare", version="1").SerializeToString(),
        "ModelMetadata": metadata.SerializeToString(),
        "ModelConfig": pb.ModelConfigResponse(config=config).SerializeToString(),
    }
