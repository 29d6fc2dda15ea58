"""How a call on grpc.aio ends that is not answered."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn, TypeAlias

import grpc

from headrace_server.transport.status import status_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


async def refuse(context: Context, error: Exception) -> NoReturn:
    """End the call with the status that the error stands for; nobody is told where the caller has gone."""
    status = status_of(error)
    error.__traceback__ = None  # it would hold the request, as large as it is, until garbage is collected
    try:
        await context.abort(status.code, status.text, status.trailers())
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
