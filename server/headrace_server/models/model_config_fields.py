"""Which fields of a configuration are honoured; every other one that says something is refused, with a hint.

A field with protobuf's default value says nothing, so that a configuration that a server tells of itself
can be read back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from headrace_server.models.model_config_problems import Findings
from headrace_server.models.model_config_text import in_map, map_values

HONOURED: Final = frozenset(
    (
        "name", "platform", "backend", "max_batch_size", "default_model_filename", "parameters.string_value",
        "model_transaction_policy.decoupled", "metric_tags",
        *(f"version_policy.{name}" for name in (
            "latest", "latest.num_versions", "all", "specific", "specific.versions")),
        *(f"input.{name}" for name in ("name", "data_type", "format", "dims", "reshape.shape", "optional")),
        *(f"output.{name}" for name in ("name", "data_type", "dims", "reshape.shape", "label_filename")),
        *(f"instance_group.{name}" for name in ("name", "kind", "count", "gpus")),
        "dynamic_batching",
        *(f"dynamic_batching.{name}" for name in (
            "preferred_batch_size", "max_queue_delay_microseconds", "preserve_ordering", "priority_levels",
            "default_priority_level")),
        *(f"dynamic_batching.{policy}.{name}"
          for policy in ("default_queue_policy", "priority_queue_policy")
          for name in ("timeout_action", "default_timeout_microseconds", "allow_timeout_override",
                       "max_queue_size")),
        "sequence_batching",
        *(f"sequence_batching.{name}" for name in (
            "max_sequence_idle_microseconds", "direct", "direct.max_queue_delay_microseconds",
            "direct.minimum_slot_utilization", "control_input.name")),
        *(f"sequence_batching.control_input.control.{name}" for name in (
            "kind", "int32_false_true", "fp32_false_true", "bool_false_true", "data_type")),
        *(f"model_warmup.{name}" for name in ("name", "batch_size", "count")),
        *(f"model_warmup.inputs.{name}" for name in (
            "data_type", "dims", "zero_data", "random_data", "input_data_file")),
        "optimization.cuda.graphs", "optimization.cuda.output_copy_stream",
        "optimization.input_pinned_memory.enable", "optimization.output_pinned_memory.enable",
    )
)  # fmt: skip
"""Paths without places in lists and keys of maps. Pinned memory and CUDA's graphs are of GPUs: on the CPU
whatever is said of them holds."""

_ENCLOSING: Final = frozenset(
    path[:end] for path in HONOURED for end, letter in enumerate(path) if letter == "."
)
"""What holds a field that is honoured."""

_GPU_ITSELF: Final = "TensorRT, or ONNX Runtime with CUDA, runs the model on a GPU: remove it"
_HINTS: Final = {
    "runtime": "name what runs the model by `backend`",
    "input.is_shape_tensor": "shape tensors belong to TensorRT: remove it",
    "input.allow_ragged_batch": "only requests of equal shapes share a batch: remove it",
    "input.is_non_linear_format_io": "non-linear formats belong to TensorRT: remove it",
    "output.is_shape_tensor": "shape tensors belong to TensorRT: remove it",
    "output.is_non_linear_format_io": "non-linear formats belong to TensorRT: remove it",
    "batch_input": "a Python model can make such an input itself",
    "batch_output": "a Python model can split such an output itself",
    "optimization.graph": "ONNX Runtime optimises graphs as far as it can: remove it",
    "optimization.priority": "all models have the same priority: remove it",
    "optimization.cuda.busy_wait_events": "whoever waits for the GPU sleeps: remove it",
    "optimization.cuda.graph_spec": "graphs are captured for the batch sizes that are executed: remove it",
    "optimization.execution_accelerators": _GPU_ITSELF,
    "optimization.execution_accelerators.gpu_execution_accelerator": _GPU_ITSELF,
    "optimization.execution_accelerators.cpu_execution_accelerator": "ONNX Runtime's own kernels for the "
    "CPU run the model: remove it; `headrace build` can make the model faster",
    "optimization.gather_kernel_buffer_threshold": "batches are gathered in pinned memory: remove it",
    "optimization.eager_batching": "batches are assembled when the engine is free: remove it",
    "sequence_batching.oldest": "use the strategy `direct`",
    "sequence_batching.state": "keep the state in a Python model, between its calls",
    "sequence_batching.iterative_sequence": "send each step as a request of the sequence",
    "ensemble_scheduling": "call the models one after the other, or put the steps into a Python model",
    "instance_group.rate_limiter": "instances are not limited: remove it",
    "instance_group.secondary_devices": "instances run on GPUs or on the CPU alone: remove it",
    "instance_group.profile": "the profile is chosen by the size of each batch: remove it",
    "instance_group.passive": "every instance takes requests: remove the group",
    "instance_group.host_policy": "bind the server's process instead, with taskset or numactl",
    "cc_model_filenames": "a plan says itself for which GPUs it is, and is rebuilt for others: remove it",
    "model_operations": "operators of one's own cannot be loaded: export the model without them",
    "model_repository_agents": "put the model's files into the repository as they are to be served",
    "response_cache": "answers are not cached: say `enable: false`, or remove it",
    "model_metrics": "the buckets of histograms are fixed: remove it",
}


_Field = tuple[str, str]
"""A field's path, and the same without places in lists and keys of maps."""


def refuse_unhonoured(message: Message, findings: Findings) -> None:
    """Report each field that says something that the server does not do."""
    reported: set[str] = set()
    for *enclosing, (path, general) in _said(message, ("", ""), ()):
        if general in HONOURED:
            continue
        hints = [(place, _HINTS[name]) for place, name in (*enclosing, (path, general)) if name in _HINTS]
        place, hint = hints[-1] if hints else (path, "remove it")
        if place not in reported:
            reported.add(place)
            findings.report(place, "is not supported", hint)


def _said(message: Message, prefix: _Field, enclosing: tuple[_Field, ...]) -> Iterator[tuple[_Field, ...]]:
    """Yield the fields that hold more than a default, each behind those that enclose it."""
    for field, value in message.ListFields():
        path, general = prefix[0] + field.name, prefix[1] + field.name
        if not _encloses(field):
            yield (*enclosing, (path, general))
            continue
        if field.containing_oneof is not None:
            yield (*enclosing, (path, general))
        for place, item in _messages(field, value, path):
            if field.is_repeated and general not in _ENCLOSING:
                yield (*enclosing, (place, general))  # there is one more of them, whatever it says
            yield from _said(item, (f"{place}.", f"{general}."), (*enclosing, (place, general)))


def _encloses(field: FieldDescriptor) -> bool:
    """Whether a field holds fields: a message, or several, or a map of them."""
    values = map_values(field)
    return (values or field).message_type is not None


def _messages(field: FieldDescriptor, value: Any, path: str) -> Iterator[tuple[str, Message]]:
    """Yield the messages in a field, with their paths."""
    if not field.is_repeated:
        yield path, value
    elif map_values(field) is not None:
        yield from ((in_map(path, key), item) for key, item in value.items())
    else:
        yield from ((f"{path}[{at}]", item) for at, item in enumerate(value))
