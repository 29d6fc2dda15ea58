"""Where Headrace answers otherwise than Triton on purpose: docs/compatibility.md has each, word for word."""

from __future__ import annotations

from typing import Final

from oip.case import Code, Difference

OWN_NAME: Final = Difference(
    "the service under its own name, `headrace.v1.InferenceService`",
    "answered as `inference.GRPCInferenceService` is",
    "UNIMPLEMENTED",
    "our own stubs and Triton's can be imported into one program",
    Code.UNIMPLEMENTED,
)
HEALTH_WATCH: Final = Difference(
    "`grpc.health.v1.Health/Watch`",
    "answered",
    "UNIMPLEMENTED",
    "gRPC's own clients balance their load by it",
    Code.UNIMPLEMENTED,
)
HEALTH_OF_NOBODY: Final = Difference(
    "health of a name: a service, `model:NAME`, `model:NAME:VERSION`",
    "of that name; NOT_FOUND for one that nobody knows",
    "of the server, whatever the name",
    "a load balancer can look at one model, and a typing error shows",
    Code.OK,
)
REFLECTION: Final = Difference(
    "server reflection, v1 and v1alpha",
    "answered, for both names of the service",
    "UNIMPLEMENTED",
    "grpcurl and dynamic clients work without the .proto",
    Code.UNIMPLEMENTED,
)
GARBAGE: Final = Difference(
    "a message that cannot be parsed",
    "INVALID_ARGUMENT",
    "INTERNAL",
    "it is the client that is wrong",
    Code.INTERNAL,
)
GARBAGE_IN_STREAM: Final = Difference(
    "a message in a stream that cannot be parsed",
    "an error in the stream, which goes on",
    "the stream ends with OK, without a word",
    "the client must learn that its request was dropped",
)
NARROW_VALUE: Final = Difference(
    "typed contents of a narrow type with a value that it cannot hold, such as 300 as INT8",
    "INVALID_ARGUMENT",
    "its low bits are taken: 44",
    "another number would be computed with, and nobody would know",
    Code.OK,
)
EMPTY_CONTENTS: Final = Difference(
    "an input whose typed contents are there and empty, beside raw contents",
    "the raw contents are taken",
    "INVALID_ARGUMENT",
    "MLServer's client sends requests so, and they can mean but one thing",
    Code.INVALID_ARGUMENT,
)
VERSION_TOO_LARGE: Final = Difference(
    "a version of more than 64 bits",
    "NOT_FOUND",
    "INVALID_ARGUMENT",
    "it is a number, and there is no such version",
    Code.INVALID_ARGUMENT,
)
SETTING_UNKNOWN: Final = Difference(
    "a trace or log setting that nobody knows",
    "INVALID_ARGUMENT, with the names of those that there are",
    "passed over",
    "a typing error must not look like success",
    Code.OK,
)
LOOSE_VERSION: Final = Difference(
    "a version such as `1x` or ` 1`",
    "INVALID_ARGUMENT",
    "taken for version 1",
    "a typing error must not choose a model",
    Code.OK,
)
VERSION_ZERO: Final = Difference(
    "version `0`",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "versions begin at 1, so there can be none",
    Code.NOT_FOUND,
)
BOOL_BYTE: Final = Difference(
    "a BOOL whose byte is neither 0 nor 1",
    "INVALID_ARGUMENT",
    "given to the model",
    "what a model computes from it is undefined",
    Code.OK,
)
TEXT_BYTES: Final = Difference(
    "a BYTES element that is no UTF-8, for an ONNX model",
    "INVALID_ARGUMENT",
    "given to the model",
    "ONNX Runtime takes text alone; one such element would fail the whole batch. Programs get any bytes",
    Code.OK,
)
STATELESS_SEQUENCE: Final = Difference(
    "`sequence_id` for a model that keeps no sequences",
    "UNIMPLEMENTED",
    "passed over",
    "the caller believes that the model remembers, and it does not",
    Code.OK,
)
NEGATIVE_TIMEOUT: Final = Difference(
    "a negative `timeout`",
    "INVALID_ARGUMENT",
    "passed over",
    "there is no such time",
    Code.OK,
)
QUEUE_FULL: Final = Difference(
    "a full queue",
    "RESOURCE_EXHAUSTED, with RetryInfo",
    "UNAVAILABLE",
    "UNAVAILABLE tells a client that the server is away, and that it should try at once",
    Code.UNAVAILABLE,
)
QUEUE_TIMEOUT: Final = Difference(
    "a request that waited longer than its queue allows",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
    "trying again would only add to the load, and the caller's time is over",
    Code.UNAVAILABLE,
)
TIMEOUT_WITHOUT_POLICY: Final = Difference(
    "`timeout` for a model whose configuration says nothing of timeouts",
    "counts",
    "passed over",
    "who sends it means it",
    Code.OK,
)
DECOUPLED_FAILURE: Final = Difference(
    "statistics of a request that had an error among its several answers",
    "counted as failed",
    "counted as succeeded",
    "an operator looks for failures there",
)
STATUS_AT_ONCE: Final = Difference(
    "`triton_grpc_error` on a stream, and a request that is refused before its model sees it",
    "the stream ends with its status",
    "an error in the stream, which goes on; only errors of the model end it",
    "who asks for statuses gets one for every error",
    Code.OK,
)
MESSAGE_TOO_LARGE: Final = Difference(
    "a message that is larger than `--max-message-bytes` (64 MiB), as it came or unpacked",
    "RESOURCE_EXHAUSTED",
    "taken up to 2 GiB",
    "what one caller can have the server hold has a bound; raise it for larger tensors",
    Code.OK,
)
CONTROL_DISABLED: Final = Difference(
    "load or unload where models are not controlled so",
    "FAILED_PRECONDITION",
    "UNAVAILABLE",
    "trying again is of no use before the server was started otherwise",
    Code.UNAVAILABLE,
)
LOAD_OF_NOTHING: Final = Difference(
    "load of a model that is in no repository",
    "NOT_FOUND",
    "INTERNAL",
    "nothing is wrong inside the server",
    Code.INTERNAL,
)
LOAD_WITH_BAD_CONFIG: Final = Difference(
    "load with a `config` that is wrong, or with files and no `config`",
    "INVALID_ARGUMENT, naming the field",
    'INTERNAL, "failed to poll"',
    "it is the request that is wrong, and its text says where",
    Code.INTERNAL,
)
UNLOAD_OF_NOTHING: Final = Difference(
    "unload of a model that is in no repository",
    "NOT_FOUND",
    "OK",
    "a typing error must not look like success",
    Code.OK,
)
FILE_OUTSIDE: Final = Difference(
    "load with a file whose path leads out of the model's folder",
    "INVALID_ARGUMENT",
    "INTERNAL",
    "it is the request that is wrong",
    Code.INTERNAL,
)
NEVER_LOADED: Final = Difference(
    "inference, metadata or configuration of a model that is known and not loaded",
    "UNAVAILABLE, with the reason",
    "NOT_FOUND",
    "the model exists: the caller may wait for it, and learns why it does not serve",
    Code.NOT_FOUND,
)
STATISTICS_OF_NOTHING: Final = Difference(
    "statistics of a model or a version that is not there",
    "NOT_FOUND",
    "INVALID_ARGUMENT",
    "as everywhere else",
    Code.INVALID_ARGUMENT,
)
STATISTICS_OF_UNLOADED: Final = Difference(
    "statistics of a model that is known and not loaded",
    "UNAVAILABLE, with the reason",
    "INVALID_ARGUMENT",
    "as everywhere else",
    Code.INVALID_ARGUMENT,
)
REGION_WRONG: Final = Difference(
    "registering a shared memory region of an object that is not there, or by a key that leads elsewhere",
    "INVALID_ARGUMENT",
    "INTERNAL",
    "it is the request that is wrong",
    Code.INTERNAL,
)

MISSING_BESIDE_OPTIONAL: Final = Difference(
    "an input that is required and missing, while an optional one came",
    "INVALID_ARGUMENT",
    "given to the model, which fails: INTERNAL",
    "inputs are counted there, and compared here",
    Code.INTERNAL,
)
STRING_SEQUENCE: Final = Difference(
    "a text as `sequence_id` where the model takes the number as an input",
    "INVALID_ARGUMENT",
    "the text's bytes are given to the model as a number",
    "it would be the number of another sequence",
    Code.OK,
)
OUTPUT_TOO_LARGE: Final = Difference(
    "an output that is larger than the `shared_memory_byte_size` given for it",
    "INVALID_ARGUMENT",
    "INTERNAL",
    "it is the request that is wrong",
    Code.INTERNAL,
)
SHARED_MEMORY_OFF: Final = Difference(
    "shared memory, unless the server is started with `--allow-client-shm`",
    "UNIMPLEMENTED, naming the flag",
    "2.51 allows it always, newer ones refuse it likewise",
    "the region's owner and the server trust each other more than a network's ends do",
    Code.OK,
)
TRACE_OF_NOTHING: Final = Difference(
    "trace settings of a model that is not there",
    "NOT_FOUND",
    "INVALID_ARGUMENT",
    "as everywhere else",
    Code.INVALID_ARGUMENT,
)
TRACE_LEVEL_UNKNOWN: Final = Difference(
    "a trace level that nobody knows",
    "INVALID_ARGUMENT",
    "passed over",
    "a typing error must not look like success",
    Code.OK,
)
READY_BESIDE_BROKEN: Final = Difference(
    "ServerReady and the server's health after a model could not be loaded on request",
    "ready: the other models serve, and ModelReady tells of this one",
    "not ready",
    "one wrong request must not take a server out of service",
)
