"""What a server says of calls that it refuses."""

from __future__ import annotations

from typing import Any

import grpc
import pytest


def refusal(call: Any, *arguments: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    """Make a call that must fail; return its code and text."""
    with pytest.raises(grpc.RpcError) as refused:
        call(*arguments, **{"timeout": 10, **options})
    return refused.value.code(), refused.value.details()
