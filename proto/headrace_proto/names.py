"""Names that both ends of a connection must agree on."""

import re
from typing import Final

INFERENCE_SERVICE: Final = "headrace.v1.InferenceService"
"""The service as our own .proto declares it."""

TRITON_SERVICE: Final = "inference.GRPCInferenceService"
"""The same service under the name that clients of Triton, KServe and MLServer call."""

SERVICES: Final = (INFERENCE_SERVICE, TRITON_SERVICE)


def model_health_name(model: str, version: str = "") -> str:
    """Return the name under which `grpc.health.v1` tells a model's state."""
    return f"model:{model}:{version}" if version else f"model:{model}"


CONSUL_META_KEY_CHARACTERS: Final = 128
"""Longest key of a service's metadata that Consul takes."""


def consul_model_key(model: str) -> str:
    """Return the key of a service's metadata in Consul that says that it serves this model.

    Servers set it and clients filter by it. Consul takes letters, digits, `-` and `_` alone.
    """
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"model-{model}")[:CONSUL_META_KEY_CHARACTERS]
