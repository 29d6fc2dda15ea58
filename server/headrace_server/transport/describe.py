"""What the server says about itself and its models, as the protocol's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from headrace_engines.spec import TensorSpec
from headrace_proto import __version__
from headrace_proto.tensors import datatype_of
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.core.model import Model
from headrace_server.core.request import ModelFacts
from headrace_server.core.statistics import Duration, ResponseStatistics, Statistics

SERVER_NAME: Final = "headrace"
EXTENSIONS: Final = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""The protocol's extensions that every server has."""


def server_metadata(further: Sequence[str]) -> pb.ServerMetadataResponse:
    """Describe the server, which has these extensions besides those that every server has."""
    return pb.ServerMetadataResponse(
        name=SERVER_NAME, version=__version__, extensions=[*EXTENSIONS, *further]
    )


def model_metadata(facts: ModelFacts, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    """Describe a model's tensors; the batch axis, where there is one, is -1."""
    batch = (-1,) if facts.spec.has_batch_axis else ()

    def tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(
            name=spec.name, datatype=datatype_of(spec.dtype), shape=(*batch, *spec.dims)
        )

    return pb.ModelMetadataResponse(
        name=facts.name,
        versions=versions,
        platform=facts.platform,
        inputs=map(tensor, facts.spec.inputs),
        outputs=map(tensor, facts.spec.outputs),
    )


def model_config(facts: ModelFacts) -> pb.ModelConfigResponse:
    """Tell the configuration that a model is served with, as whoever loaded it made it."""
    return pb.ModelConfigResponse(config=config_pb.ModelConfig.FromString(facts.config))


def model_statistics(models: Sequence[Model]) -> pb.ModelStatisticsResponse:
    """Report counts and durations of these models, each as of one moment."""
    return pb.ModelStatisticsResponse(model_stats=map(_statistics, models))


def _statistics(model: Model) -> pb.ModelStatistics:
    facts, statistics = model.facts, model.snapshot()
    return pb.ModelStatistics(
        name=facts.name,
        version=facts.version,
        last_inference=statistics.last_inference_ms,
        inference_count=statistics.inference_count,
        execution_count=statistics.execution_count,
        inference_stats=_inference_statistics(statistics),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=size,
                compute_input=_duration(batch.compute_input),
                compute_infer=_duration(batch.compute_infer),
                compute_output=_duration(batch.compute_output),
            )
            for size, batch in sorted(statistics.by_batch_size.items())
        ],
        memory_usage=[
            pb.MemoryUsage(type="CPU", id=0, byte_size=model.memory_bytes),
            *(
                pb.MemoryUsage(type="GPU", id=gpu, byte_size=size_bytes)
                for gpu, size_bytes in model.gpu_memory_bytes.items()
            ),
        ],
        response_stats=_response_statistics(statistics.responses),
    )


def _inference_statistics(statistics: Statistics) -> pb.InferStatistics:
    """Return the durations of requests; there is no cache of answers, so that none hits or misses it."""
    return pb.InferStatistics(
        success=_duration(statistics.success),
        fail=_duration(statistics.fail),
        queue=_duration(statistics.queue),
        compute_input=_duration(statistics.compute_input),
        compute_infer=_duration(statistics.compute_infer),
        compute_output=_duration(statistics.compute_output),
        cache_hit=pb.StatisticDuration(),
        cache_miss=pb.StatisticDuration(),
    )


def _response_statistics(
    responses: Mapping[str, ResponseStatistics],
) -> dict[str, pb.InferResponseStatistics]:
    """Return the durations of the first, second, … response to a request."""
    return {
        number: pb.InferResponseStatistics(
            compute_infer=_duration(response.compute_infer),
            compute_output=_duration(response.compute_output),
            success=_duration(response.success),
            fail=_duration(response.fail),
            empty_response=_duration(response.empty_response),
            cancel=_duration(response.cancel),
        )
        for number, response in responses.items()
    }


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
