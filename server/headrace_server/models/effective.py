"""The whole configuration that a model is served with, as the protocol tells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from headrace_engines.spec import ModelSpec, TensorSpec
from headrace_proto.tensors import datatype_of
from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.core.model import Limits
from headrace_server.core.settings import ModelSettings
from headrace_server.models.model_config import GivenConfig
from headrace_server.models.model_config_platform import BACKENDS, USUAL_FILES
from headrace_server.models.model_config_tensors import Tensor, data_type_of

Instances = Sequence[tuple[int | None, int]]
"""How many instances there are on each GPU, by its index; None is the CPU."""

_Tensor = TypeVar("_Tensor", config_pb.ModelInput, config_pb.ModelOutput)


def effective(
    given: GivenConfig, name: str, spec: ModelSpec, platform: str, limits: Limits, instances: Instances
) -> bytes:
    """Return the serialised ModelConfig in force: what was given, and what was derived.

    Read back, it configures the same model in the same way.
    """
    config = config_pb.ModelConfig()
    config.CopyFrom(given.message)
    config.name = name
    config.platform = platform
    config.backend = BACKENDS.get(platform, platform)
    config.default_model_filename = config.default_model_filename or USUAL_FILES.get(platform, "")
    config.max_batch_size = spec.max_batch_size
    _fill_version_policy(config, given)
    inputs = [_input(tensor, config.input) for tensor in spec.inputs]
    outputs = [_output(tensor, config.output) for tensor in spec.outputs]
    del config.input[:], config.output[:], config.instance_group[:]
    config.input.extend(inputs)
    config.output.extend(outputs)
    _fill_instances(config, instances)
    _fill_scheduling(config, given.settings, spec, limits)
    for sample, warmup in zip(config.model_warmup, given.warmups, strict=True):
        sample.batch_size, sample.count = warmup.rows, warmup.count
    if given.settings.is_decoupled:
        config.model_transaction_policy.decoupled = True
    return config.SerializeToString(deterministic=True)


def _fill_instances(config: config_pb.ModelConfig, instances: Instances) -> None:
    """Name one group for each GPU; the CPU has one."""
    kinds = config_pb.ModelInstanceGroup
    for position, (gpu, count) in enumerate(instances):
        name = f"{config.name}_{position}"
        if gpu is None:
            config.instance_group.add(name=name, kind=kinds.KIND_CPU, count=count)
        else:
            config.instance_group.add(name=name, kind=kinds.KIND_GPU, count=count, gpus=[gpu])


def _fill_version_policy(config: config_pb.ModelConfig, given: GivenConfig) -> None:
    policy = config.version_policy
    if policy.WhichOneof("policy_choice") in (None, "latest"):
        policy.latest.num_versions = given.version_policy.latest or 1


def _input(spec: TensorSpec, given: Sequence[config_pb.ModelInput]) -> config_pb.ModelInput:
    tensor = _described(config_pb.ModelInput(), spec, given)
    tensor.optional = spec.is_optional
    return tensor


def _output(spec: TensorSpec, given: Sequence[config_pb.ModelOutput]) -> config_pb.ModelOutput:
    return _described(config_pb.ModelOutput(), spec, given)


def _described(tensor: _Tensor, spec: TensorSpec, given: Sequence[Tensor]) -> _Tensor:
    """Fill a tensor with what was said of it, then with what it is."""
    for said in given:
        if said.name == spec.name:
            tensor.MergeFromString(said.SerializeToString())
    tensor.name = spec.name
    tensor.data_type = data_type_of(datatype_of(spec.dtype))
    tensor.dims[:] = spec.dims
    return tensor


def _fill_scheduling(
    config: config_pb.ModelConfig, settings: ModelSettings, spec: ModelSpec, limits: Limits
) -> None:
    if settings.sequences is not None:
        batching = config.sequence_batching
        batching.max_sequence_idle_microseconds = settings.sequences.max_idle_us
        batching.direct.SetInParent()
        return
    if not spec.has_batch_axis and not config.HasField("dynamic_batching"):
        return
    config.dynamic_batching.preferred_batch_size[:] = settings.preferred_batch_sizes
    default = settings.default_policy
    policy = config.dynamic_batching.default_queue_policy
    policy.allow_timeout_override = default.allow_timeout_override
    policy.max_queue_size = default.max_queue_size or limits.max_queue_size
