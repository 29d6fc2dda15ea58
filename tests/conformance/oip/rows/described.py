"""What the server tells of its models: metadata, configuration, the index of the repository."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from oip import differences
from oip.case import Case, Check, Code, Earlier, ask, case
from oip.wire import Outcome

from headrace_proto.tensors import DTYPES
from headrace_proto.v1 import inference_pb2 as pb
from headrace_proto.v1 import model_config_pb2 as config

Tensor = pb.ModelMetadataResponse.TensorMetadata


def _metadata(
    name: str,
    inputs: list[tuple[str, str, list[int]]],
    outputs: list[tuple[str, str, list[int]]],
    *versions: str,
) -> Case:
    """Expect these tensors, as (name, datatype, shape with the batch axis)."""
    expected = pb.ModelMetadataResponse(
        name=name,
        versions=versions or ["1"],
        inputs=[Tensor(name=one, datatype=datatype, shape=shape) for one, datatype, shape in inputs],
        outputs=[Tensor(name=one, datatype=datatype, shape=shape) for one, datatype, shape in outputs],
    )
    return case(
        f"metadata of {name}", ask("ModelMetadata", pb.ModelMetadataRequest(name=name), gives=expected)
    )


def _config(name: str, what: str, expected: config.ModelConfig) -> Case:
    return case(
        f"configuration of {name}: {what}",
        ask(
            "ModelConfig",
            pb.ModelConfigRequest(name=name),
            gives=pb.ModelConfigResponse(config=expected),
        ),
    )


def _dims(*tensors: tuple[str, config.DataType.ValueType, list[int]]) -> list[Any]:
    return [config.ModelInput(name=name, data_type=kind, dims=dims) for name, kind, dims in tensors]


def _kind(datatype: str) -> str:
    return "STRING" if datatype == "BYTES" else datatype


def _unknown(method: str, request: Callable[..., Any]) -> list[Case]:
    """Rows about names and versions that are not there, the same for every procedure that takes them."""
    return [
        case(
            f"{method} of no such model",
            ask(method, request(name="simpel"), Code.NOT_FOUND, "simpel.*simple"),
        ),
        case(f"{method} of no name", ask(method, request(), Code.NOT_FOUND)),
        case(
            f"{method} of no such version",
            ask(method, request(name="simple", version="9"), Code.NOT_FOUND, "simple.*9"),
        ),
        case(
            f"{method} of a version that the policy leaves out",
            ask(method, request(name="latest_version", version="1"), Code.NOT_FOUND, "latest_version.*1"),
        ),
        case(
            f"{method} of a version that is no number",
            ask(method, request(name="simple", version="abc"), Code.INVALID_ARGUMENT, "abc"),
        ),
        case(
            f"{method} of a model that was never loaded",
            ask(method, request(name="spare"), Code.UNAVAILABLE, "spare", differs=differences.NEVER_LOADED),
        ),
    ]


def index(**expected: list[tuple[str, str]]) -> Check:
    """Expect just these (version, state) of each of these models, but for what was unloaded long before."""

    def check(outcome: Outcome, _earlier: Earlier) -> None:
        for name, entries in expected.items():
            came = [
                (one.version, one.state)
                for one in outcome.answer.models
                if one.name == name and (one.reason != "unloaded" or (one.version, one.state) in entries)
            ]
            assert sorted(came) == sorted(entries), f"{name}: {came} came, {entries} expected"

    return check


def _no_reasons(outcome: Outcome, _earlier: Earlier) -> None:
    assert outcome.answer.models
    assert {(one.state, one.reason) for one in outcome.answer.models} == {("READY", "")}


def _given_as_written(outcome: Outcome, _earlier: Earlier) -> None:
    given = outcome.answer.config
    assert given.WhichOneof("scheduling_choice") == "sequence_batching"
    assert [one.name for one in given.sequence_batching.control_input] == ["START", "READY", "END", "CORRID"]
    assert given.sequence_batching.HasField("direct")


_ALL: Final = config.ModelVersionPolicy(all=config.ModelVersionPolicy.All())
_CHOSEN: Final = config.ModelVersionPolicy(specific=config.ModelVersionPolicy.Specific(versions=[1, 3]))
_ONE_BACKEND: Final = "on Triton all of these models run in its Python backend"
_READY: Final = [("1", "READY")]

CASES: Final[list[Case]] = [
    _metadata(
        "simple",
        [("INPUT0", "INT32", [-1, 16]), ("INPUT1", "INT32", [-1, 16])],
        [("OUTPUT0", "INT32", [-1, 16]), ("OUTPUT1", "INT32", [-1, 16])],
    ),
    _metadata("alone", [("x", "FP32", [2, 3])], [("y", "FP32", [2, 3])]),
    _metadata("variable", [("x", "FP32", [-1, -1])], [("y", "FP32", [-1, -1])]),
    _metadata("reshaped", [("x", "FP32", [-1, 4])], [("y", "FP32", [-1, 4])]),
    _metadata("optional", [("x", "FP32", [-1, 1]), ("bonus", "FP32", [-1, 1])], [("y", "FP32", [-1, 1])]),
    *(_metadata(f"identity_{name}", [("x", name, [-1, 3])], [("y", name, [-1, 3])]) for name in DTYPES),
    _metadata("repeat", [("x", "INT32", [-1])], [("y", "INT32", [1])]),
    _metadata("running_sum", [("x", "INT32", [-1, 1])], [("y", "INT32", [-1, 1]), ("id", "UINT64", [-1, 1])]),
    _metadata("every_version", [("x", "FP32", [-1, 1])], [("y", "FP32", [-1, 1])], "1", "2", "3"),
    _metadata("latest_version", [("x", "FP32", [-1, 1])], [("y", "FP32", [-1, 1])], "3"),
    _metadata("latest_two", [("x", "FP32", [-1, 1])], [("y", "FP32", [-1, 1])], "2", "3"),
    _metadata("chosen_versions", [("x", "FP32", [-1, 1])], [("y", "FP32", [-1, 1])], "1", "3"),
    case(
        "metadata of one version",
        ask(
            "ModelMetadata",
            pb.ModelMetadataRequest(name="every_version", version="2"),
            gives=pb.ModelMetadataResponse(
                name="every_version", inputs=[Tensor(name="x", datatype="FP32", shape=[-1, 1])]
            ),
        ),
    ),
    *(
        case(
            f"the platform of {name}",
            ask(
                "ModelMetadata",
                pb.ModelMetadataRequest(name=name),
                gives=pb.ModelMetadataResponse(platform=platform),
            ),
            only_ours=_ONE_BACKEND,
        )
        for name, platform in (("simple", "onnxruntime_onnx"), ("repeat", "python"))
    ),
    *_unknown("ModelMetadata", pb.ModelMetadataRequest),
    _config(
        "simple",
        "tensors and the largest batch",
        config.ModelConfig(
            name="simple",
            max_batch_size=8,
            input=_dims(("INPUT0", config.TYPE_INT32, [16]), ("INPUT1", config.TYPE_INT32, [16])),
        ),
    ),
    *(
        _config(
            f"identity_{name}",
            "its datatype",
            config.ModelConfig(
                max_batch_size=8, input=_dims(("x", config.DataType.Value(f"TYPE_{_kind(name)}"), [3]))
            ),
        )
        for name in DTYPES
    ),
    _config(
        "alone",
        "no batch axis",
        config.ModelConfig(name="alone", input=_dims(("x", config.TYPE_FP32, [2, 3]))),
    ),
    _config("variable", "any dimension", config.ModelConfig(input=_dims(("x", config.TYPE_FP32, [-1])))),
    _config(
        "reshaped",
        "the reshape",
        config.ModelConfig(
            input=[config.ModelInput(name="x", dims=[4], reshape=config.ModelTensorReshape(shape=[2, 2]))]
        ),
    ),
    _config(
        "scores",
        "the file of labels",
        config.ModelConfig(output=[config.ModelOutput(name="y", dims=[5], label_filename="classes.txt")]),
    ),
    _config(
        "optional",
        "the optional input",
        config.ModelConfig(
            input=[config.ModelInput(name="x"), config.ModelInput(name="bonus", optional=True)],
        ),
    ),
    _config("every_version", "its policy", config.ModelConfig(version_policy=_ALL)),
    _config("chosen_versions", "its policy", config.ModelConfig(version_policy=_CHOSEN)),
    _config(
        "latest_version",
        "the usual policy",
        config.ModelConfig(
            version_policy=config.ModelVersionPolicy(latest=config.ModelVersionPolicy.Latest(num_versions=1))
        ),
    ),
    _config(
        "levels",
        "priorities and preferred batches",
        config.ModelConfig(
            dynamic_batching=config.ModelDynamicBatching(
                preferred_batch_size=[4, 8],
                priority_levels=3,
                default_priority_level=2,
                max_queue_delay_microseconds=500,
            )
        ),
    ),
    _config(
        "ordered",
        "its ordering",
        config.ModelConfig(dynamic_batching=config.ModelDynamicBatching(preserve_ordering=True)),
    ),
    _config(
        "impatient",
        "its queue",
        config.ModelConfig(
            dynamic_batching=config.ModelDynamicBatching(
                default_queue_policy=config.ModelQueuePolicy(
                    default_timeout_microseconds=50000, allow_timeout_override=True
                )
            )
        ),
    ),
    _config(
        "repeat",
        "decoupled",
        config.ModelConfig(model_transaction_policy=config.ModelTransactionPolicy(decoupled=True)),
    ),
    _config(
        "told",
        "parameters",
        config.ModelConfig(parameters={"colour": config.ModelParameter(string_value="green")}),
    ),
    _config(
        "warmed",
        "warming up",
        config.ModelConfig(
            model_warmup=[
                config.ModelWarmup(
                    name="zero",
                    batch_size=1,
                    inputs={
                        "x": config.ModelWarmup.Input(data_type=config.TYPE_FP32, dims=[1], zero_data=True)
                    },
                )
            ]
        ),
    ),
    _config(
        "simple",
        "its instances",
        config.ModelConfig(
            instance_group=[config.ModelInstanceGroup(count=1, kind=config.ModelInstanceGroup.KIND_CPU)]
        ),
    ),
    case(
        "configuration of running_sum: sequences",
        ask("ModelConfig", pb.ModelConfigRequest(name="running_sum"), gives=_given_as_written),
    ),
    case(
        "configuration of one version",
        ask(
            "ModelConfig",
            pb.ModelConfigRequest(name="every_version", version="2"),
            gives=pb.ModelConfigResponse(config=config.ModelConfig(name="every_version")),
        ),
    ),
    *_unknown("ModelConfig", pb.ModelConfigRequest),
    case(
        "the index has each version that serves",
        ask(
            "RepositoryIndex",
            pb.RepositoryIndexRequest(),
            gives=index(
                simple=_READY,
                every_version=[("1", "READY"), ("2", "READY"), ("3", "READY")],
                latest_version=[("3", "READY")],
                latest_two=[("2", "READY"), ("3", "READY")],
                chosen_versions=[("1", "READY"), ("3", "READY")],
                repeat=_READY,
            ),
        ),
    ),
    case(
        "the index has the name of a model that was never loaded",
        ask("RepositoryIndex", pb.RepositoryIndexRequest(), gives=index(never_asked=[("", "")])),
    ),
    case(
        "the index gives no reason for what is ready",
        ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True), gives=_no_reasons),
    ),
    case(
        "the index of what is ready leaves out what is not",
        ask(
            "RepositoryIndex",
            pb.RepositoryIndexRequest(ready=True),
            gives=index(simple=_READY, never_asked=[], no_such_model=[]),
        ),
    ),
    case(
        "the index of one repository by name",
        ask(
            "RepositoryIndex",
            pb.RepositoryIndexRequest(repository_name="other"),
            Code.UNIMPLEMENTED,
            "repository",
        ),
    ),
]
