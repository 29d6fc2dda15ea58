"""How a call on grpc.aio ends that is not answered."""

from __future__ import annotations

from typing import Any, NoReturn, TypeAlias

import grpc

from headrace_server.transport.status import status_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


async def refuse(context: Context, error: Exception) -> NoReturn:
    """End the call with the status that the error stands for."""
    status = status_of(error)
    await context.abort(status.code, status.text, status.trailers())
