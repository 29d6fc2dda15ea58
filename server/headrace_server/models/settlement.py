"""A configuration and its model: loaded as declared, and what only the loaded model can prove or tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_engines.engine import Engine
from headrace_engines.errors import DeclarationError, Difference
from headrace_engines.load import Loaded, load
from headrace_engines.machine import THIS_MACHINE, Machine
from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_engines.steps import StepEngine
from headrace_proto.tensors import datatype_of
from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.core.settings import ModelSettings
from headrace_server.models.model_config import GivenConfig
from headrace_server.models.model_config_platform import refuse_options
from headrace_server.models.model_config_problems import ConfigError, Findings, did_you_mean
from headrace_server.models.model_config_tensors import Tensor
from headrace_server.models.model_config_warmup import Warmup, WarmupInput

if TYPE_CHECKING:
    from headrace_engines.replan import Replanner


def load_declared(
    folder: Path,
    given: GivenConfig,
    *,
    max_batch_size: int,
    allow_python: bool = False,
    machine: Machine = THIS_MACHINE,
    replanner: Replanner | None = None,
) -> Loaded:
    """Load a version as `headrace_engines.load` does; where the model is not as declared, tell the lines.

    Raises ConfigError, EngineError.
    """
    try:
        return load(
            folder,
            max_batch_size=max_batch_size,
            declaration=given.declaration,
            allow_python=allow_python,
            placement=given.placement,
            machine=machine,
            rebuilt=replanner.rebuilt if replanner else None,
        )
    except DeclarationError as error:
        findings = Findings(given.file, given.lines)
        for difference in error.differences:
            named = f"{difference.tensor!r}: " if difference.tensor else ""
            findings.report(_place(difference, given.message), named + difference.text)
        raise ConfigError(findings.problems) from error


def _place(difference: Difference, config: config_pb.ModelConfig) -> str:
    """Return the path of what was declared; of all the inputs or outputs where a tensor was left out."""
    tensors: Sequence[Tensor] = config.input if difference.setting == "input" else config.output
    for position, tensor in enumerate(tensors):
        if difference.tensor and tensor.name == difference.tensor:
            return f"{difference.setting}[{position}]"
    return difference.setting


def settle(given: GivenConfig, engine: Engine | StepEngine) -> GivenConfig:
    """Return the configuration that the loaded model is to be served with. Raises ConfigError.

    A program may be decoupled by its own word, and a model whose rows must be executed apart has no
    preferred batch sizes.
    """
    findings = Findings(given.file, given.lines)
    settings = _settled(given.settings, given, engine, findings)
    _check_sequences(settings, engine, findings)
    _check_kinds(given.message, engine, findings)
    _check_pinned(given.message, engine, findings)
    if not given.declaration.platform and not isinstance(engine, StepEngine):
        refuse_options(given.message, findings)
    for position, sample in enumerate(given.warmups):
        _check_sample(sample, f"model_warmup[{position}]", engine.spec, findings)
    findings.end()
    return replace(given, settings=settings)


def _settled(
    settings: ModelSettings, given: GivenConfig, engine: Engine | StepEngine, findings: Findings
) -> ModelSettings:
    most = engine.spec.max_batch_size
    too_large = [size for size in settings.preferred_batch_sizes if size > most]
    if too_large and given.declaration.max_batch_size is None:
        text = f"{too_large[0]} is over what the model takes, {most} rows"
        findings.report("dynamic_batching.preferred_batch_size", text, "say `max_batch_size` as well")
    return replace(
        settings,
        preferred_batch_sizes=tuple(size for size in settings.preferred_batch_sizes if size <= most),
        is_decoupled=isinstance(engine, StepEngine) and engine.is_decoupled,
    )


def _check_sequences(settings: ModelSettings, engine: Engine | StepEngine, findings: Findings) -> None:
    if settings.sequences is None:
        return
    if not isinstance(engine, StepEngine):
        text = "the model keeps nothing from one request to the next"
        findings.report("sequence_batching", text, "write it as a Python model")
    inputs = [tensor.name for tensor in engine.spec.inputs]
    for position, control in enumerate(settings.sequences.controls):
        if control.name in inputs:
            path = f"sequence_batching.control_input[{position}].name"
            findings.report(path, f"{control.name!r} is an input of the model, which callers fill")


def _check_kinds(config: config_pb.ModelConfig, engine: Engine | StepEngine, findings: Findings) -> None:
    is_program = isinstance(engine, StepEngine)
    for position, group in enumerate(config.instance_group):
        path = f"instance_group[{position}].kind"
        if group.kind == config_pb.ModelInstanceGroup.KIND_MODEL and not is_program:
            findings.report(path, "only a Python model chooses for itself where it runs", "write KIND_CPU")
        elif group.kind == config_pb.ModelInstanceGroup.KIND_GPU and is_program:
            findings.report(path, "a Python model chooses for itself where it runs", "write KIND_MODEL")


def _check_pinned(config: config_pb.ModelConfig, engine: Engine | StepEngine, findings: Findings) -> None:
    """Report it where tensors are not to travel to a GPU as they do."""
    if isinstance(engine, StepEngine) or engine.device is None:
        return
    for field in ("input_pinned_memory", "output_pinned_memory"):
        if config.optimization.HasField(field) and not getattr(config.optimization, field).enable:
            findings.report(
                f"optimization.{field}", "tensors reach the GPU through pinned memory", "remove it"
            )


def _check_sample(sample: Warmup, path: str, spec: ModelSpec, findings: Findings) -> None:
    if sample.rows > max(1, spec.max_batch_size):
        text = f"{sample.rows} is more rows than the model takes, {max(1, spec.max_batch_size)}"
        findings.report(f"{path}.batch_size", text)
    tensors = {tensor.name: tensor for tensor in spec.inputs}
    for given in sample.inputs:
        place = f'{path}.inputs["{given.name}"]'
        tensor = tensors.get(given.name)
        if tensor is None:
            findings.report(
                place, f"the model has no input {given.name!r}", did_you_mean(given.name, tensors)
            )
        elif problem := _difference(given, tensor):
            findings.report(place, problem)
    came = {given.name for given in sample.inputs}
    for tensor in spec.inputs:
        if tensor.name not in came and not tensor.is_optional:
            findings.report(path, f"input {tensor.name!r} is missing from the sample")


def _difference(given: WarmupInput, tensor: TensorSpec) -> str:
    """Say in which way a sample's input is not what the model takes; "" if it is."""
    if given.dtype != tensor.dtype:
        return f"{datatype_of(given.dtype)} came, {datatype_of(tensor.dtype)} expected"
    sizes = zip(given.dims, tensor.dims, strict=False)
    if len(given.dims) != len(tensor.dims) or any(wanted not in (ANY, size) for size, wanted in sizes):
        return f"dims {list(given.dims)} came, {list(tensor.dims)} expected"
    return ""
