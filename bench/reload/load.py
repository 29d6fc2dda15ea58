"""Calls that never cease: unary ones and streams, so many in flight, each of them judged."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc
import numpy as np

from bench.reload.ledger import Ledger, Question
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

FEATURES: Final = 4
PATIENCE_SECONDS: Final = 30.0

_CALLS_IN_A_STREAM: Final = 8
_PAUSE_SECONDS: Final = 0.002
"""After an error: a model that is away refuses faster than anybody would ask."""
_DETAILS: Final = "grpc-status-details-bin"
_REASON: Final = b"MODEL_NOT_READY"


class Load:
    """So many calls in flight while the block runs, half of them unary and half in streams.

    `targets` are the models to ask, each with the version to name, "" for none; they share the calls.
    """

    def __init__(
        self, address: str, ledger: Ledger, targets: Sequence[tuple[str, str]], in_flight: int
    ) -> None:
        self.calls: Counter[str] = Counter()
        """How many ended, by kind: "unary", "streamed"."""
        self._address = address
        self._ledger = ledger
        self._targets = targets
        self._unary = in_flight // 2
        self._streams = in_flight // 2 // _CALLS_IN_A_STREAM
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        targets = itertools.cycle(self._targets)
        for kind, count in ((self._call, self._unary), (self._stream, self._streams)):
            for (model, version), _ in zip(targets, range(count), strict=False):
                self._tasks.append(asyncio.create_task(kind(model, version)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End once every call that was begun has ended."""
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def _call(self, model: str, version: str) -> None:
        async with _channel(self._address) as channel:
            stub = InferenceServiceStub(channel)
            while not self._is_over:
                question = self._ledger.ask(model, version)
                try:
                    self._take(question, await stub.ModelInfer(_request(question), timeout=PATIENCE_SECONDS))
                except grpc.aio.AioRpcError as error:
                    reason = _REASON.decode() if _is_not_ready(error) else ""
                    self._ledger.failed(question, error.code().name, reason, error.details() or "")
                    await asyncio.sleep(_PAUSE_SECONDS)
                self.calls["unary"] += 1

    async def _stream(self, model: str, version: str) -> None:
        async with _channel(self._address) as channel:
            stub = InferenceServiceStub(channel)
            while not self._is_over:
                asked: dict[str, Question] = {}
                try:
                    await self._converse(stub.ModelStreamInfer(), model, version, asked)
                except grpc.aio.AioRpcError as error:
                    for question in asked.values():
                        self._ledger.failed(question, error.code().name, "", error.details() or "")

    async def _converse(self, call: Any, model: str, version: str, asked: dict[str, Question]) -> None:
        """Keep requests in flight on one stream; `asked` holds those that were not answered, by id."""

        async def ask() -> None:
            question = self._ledger.ask(model, version)
            asked[str(question.key)] = question
            await call.write(_request(question))

        for _ in range(_CALLS_IN_A_STREAM):
            await ask()
        while asked:
            message = await asyncio.wait_for(call.read(), PATIENCE_SECONDS)
            if message is grpc.aio.EOF:
                raise grpc.aio.AioRpcError(
                    await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details()
                )
            question = asked.pop(message.infer_response.id)
            self.calls["streamed"] += 1
            if message.error_message:
                told = message.infer_response.parameters
                code, reason = told["error_code"].string_param, told["error_reason"].string_param
                self._ledger.failed(question, code, reason, message.error_message)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self._take(question, message.infer_response)
            if not self._is_over:
                await ask()
        await call.done_writing()

    def _take(self, question: Question, answer: pb.ModelInferResponse) -> None:
        elements = np.frombuffer(answer.raw_output_contents[0], np.float32)
        self._ledger.answered(question, answer.model_name, answer.model_version, elements.tolist())


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def _request(question: Question) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(
        model_name=question.model, model_version=question.version, id=str(question.key)
    )
    request.inputs.add(name="x", datatype="FP32", shape=(1, FEATURES))
    request.raw_input_contents.append(np.full(FEATURES, question.key, np.float32).tobytes())
    return request


def _is_not_ready(error: grpc.aio.AioRpcError) -> bool:
    details = [value for key, value in error.trailing_metadata() if key == _DETAILS]
    return any(isinstance(value, bytes) and _REASON in value for value in details)
