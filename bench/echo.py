"""The least that a grpc.aio server can do: parse the request, build a constant answer. A program."""

from __future__ import annotations

import argparse
import asyncio

import grpc

from headrace_proto.names import TRITON_SERVICE
from headrace_proto.v1 import inference_pb2 as pb

_CLASSES = 10


async def _infer(
    request: pb.ModelInferRequest,
    context: grpc.aio.ServicerContext[pb.ModelInferRequest, pb.ModelInferResponse],
) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    response.outputs.add(name="y", datatype="FP32", shape=(1, _CLASSES))
    response.raw_output_contents.append(bytes(4 * _CLASSES))
    return response


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        _infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(TRITON_SERVICE, {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(_serve(parser.parse_args().port))
