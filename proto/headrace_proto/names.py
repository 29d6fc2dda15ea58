"""Names that both ends of a connection must agree on."""

from typing import Final

INFERENCE_SERVICE: Final = "headrace.v1.InferenceService"
"""The service as our own .proto declares it."""

TRITON_SERVICE: Final = "inference.GRPCInferenceService"
"""The same service under the name that clients of Triton, KServe and MLServer call."""

SERVICES: Final = (INFERENCE_SERVICE, TRITON_SERVICE)


def model_health_name(model: str, version: str = "") -> str:
    """Return the name under which `grpc.health.v1` tells a model's state."""
    return f"model:{model}:{version}" if version else f"model:{model}"
