"""Everything that the server can be told: one frozen object, a field for each setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace_server.options import LARGEST_INT32, setting


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that the server can be told. Sizes in bytes, times in seconds, port 0 is any free port."""

    model_repository: tuple[Path, ...] = setting(
        (Path("models"),), "Folder of models: MODEL/VERSION/model.onnx; may be repeated.", "paths"
    )
    model_control_mode: str = setting(
        "none",
        "What changes the models that are served: nothing, a look at the repositories every so often, or "
        "callers (RepositoryModelLoad).",
        "choice",
        choices=("none", "poll", "explicit"),
    )
    load_model: tuple[str, ...] = setting(
        (),
        "Model to load at the start, with --model-control-mode explicit, * for all; may be repeated.",
        "list",
    )
    repository_poll_secs: float = setting(
        15.0,
        "Time between two looks at the repositories, with --model-control-mode poll.",
        "number",
        least=0.1,
    )
    allow_python_models: bool = setting(
        False,
        "Execute versions that are programs (model.py); they can do whatever this process can.",
        "switch",
    )
    allow_client_shm: bool = setting(
        False,
        "Let clients of this machine pass tensors through shared memory, the system's and GPUs'.",
        "switch",
    )
    host: str = setting("127.0.0.1", "Address to listen on.", "text")
    grpc_port: int = setting(8001, "Port for gRPC; 0 is any free port.", "port")
    listen: tuple[str, ...] = setting(
        (), "Further address for gRPC, HOST:PORT or unix:PATH; may be repeated.", "list"
    )
    tls_cert: str = setting("", "Certificate chain (PEM); with it gRPC is spoken over TLS.", "text")
    tls_key: str = setting("", "Private key (PEM) of the certificate.", "text")
    tls_client_ca: str = setting(
        "", "CA certificates (PEM); only clients with a certificate of theirs are let in.", "text"
    )
    grpc_keepalive_time: int = setting(
        60_000,
        "Milliseconds without activity after which a client is pinged.",
        "integer",
        least=1000,
        most=LARGEST_INT32,
    )
    grpc_keepalive_timeout: int = setting(
        20_000,
        "Milliseconds that a pinged client has for its answer, before it is given up.",
        "integer",
        least=1,
        most=LARGEST_INT32,
    )
    grpc_http2_min_recv_ping_interval_without_data: int = setting(
        0,
        "Least milliseconds between two pings of a client; one that pings more is cut off. 0 is none.",
        "integer",
        least=0,
        most=LARGEST_INT32,
    )
    grpc_max_connection_age: int = setting(
        0,
        "Milliseconds after which a connection is asked to end, to spread load; 0 is never.",
        "integer",
        least=0,
        most=LARGEST_INT32,
    )
    grpc_max_connection_age_grace: int = setting(
        0,
        "Milliseconds that calls then have to end; 0 is as long as they take.",
        "integer",
        least=0,
        most=LARGEST_INT32,
    )
    grpc_infer_response_compression_level: str = setting(
        "none",
        "How much answers are compressed for clients that accept gzip.",
        "choice",
        choices=("none", "low", "medium", "high"),
    )
    grpc_transport: str = setting(
        "auto",
        "What serves gRPC: completion-queue (grpcio's C core, driven directly), aio (grpc.aio), or auto: the "
        "first where the installed grpcio is one that it was tried with.",
        "choice",
        choices=("auto", "completion-queue", "aio"),
    )
    grpc_channelz: bool = setting(False, "Serve gRPC's own statistics of connections (channelz).", "switch")
    allow_metrics: bool = setting(True, "Serve metrics for Prometheus.", "switch")
    metrics_port: int = setting(8002, "Port for metrics, GET /metrics; 0 is any free port.", "port")
    metrics_address: str = setting("", "Address to serve metrics on; default: --host.", "text")
    trace_file: str = setting("", "File that traces of requests are appended to (JSON).", "text")
    trace_level: tuple[str, ...] = setting(
        ("OFF",), "What is traced: OFF, TIMESTAMPS; may be repeated.", "list", choices=("OFF", "TIMESTAMPS")
    )
    trace_rate: int = setting(1000, "One request in so many is traced.", "integer", least=1)
    advertise: str = setting(
        "", "Address that other hosts reach this server at, as registered in Consul; default: --host.", "text"
    )
    max_batch_size: int = setting(
        64, "Most rows in one execution of a model.", "integer", least=1, most=LARGEST_INT32
    )
    max_queue_size: int = setting(
        4096,
        "Requests that may wait for a model; more are refused with RESOURCE_EXHAUSTED.",
        "integer",
        least=1,
        most=LARGEST_INT32,
    )
    max_queue_bytes: int = setting(
        1 << 30, "Bytes of tensors that may wait for a model; more are refused likewise.", "integer", least=1
    )
    max_message_bytes: int = setting(
        64 << 20, "Largest message that is accepted.", "integer", least=1024, most=LARGEST_INT32
    )
    max_metadata_bytes: int = setting(
        16 << 10,
        "Most bytes of a call's metadata; a call with more is refused with RESOURCE_EXHAUSTED.",
        "integer",
        least=1024,
        most=LARGEST_INT32,
    )
    max_connections: int = setting(
        4096,
        "Connections open at once; further ones are closed, as are those beyond the files that the process "
        "may open.",
        "integer",
        least=1,
        most=LARGEST_INT32,
    )
    max_concurrent_calls: int = setting(
        16384,
        "Calls and streams open at once; more are refused with RESOURCE_EXHAUSTED.",
        "integer",
        least=1,
        most=LARGEST_INT32,
    )
    message_timeout_secs: float = setting(
        60.0,
        "Longest wait for a unary call's message, and for its client to take the answer: it holds one of the "
        "places for calls meanwhile. A call that waits a quarter longer is ended with DEADLINE_EXCEEDED.",
        "number",
        least=1,
    )
    max_streams: int = setting(
        4096,
        "Streams open at once; more are refused with RESOURCE_EXHAUSTED.",
        "integer",
        least=1,
        most=LARGEST_INT32,
    )
    max_stream_requests: int = setting(
        256,
        "Requests in flight on one stream; reading pauses while there are as many.",
        "integer",
        least=1,
        most=LARGEST_INT32,
    )
    max_in_flight_bytes: int = setting(
        4 << 30,
        "Bytes of requests and answers held at once; more are refused with RESOURCE_EXHAUSTED, and a stream "
        "that holds a sixteenth of it is not read from.",
        "integer",
        least=1,
    )
    model_load_thread_count: int = setting(
        2, "Models that are loaded at the same time.", "integer", least=1, most=LARGEST_INT32
    )
    gpu_watchdog_secs: float = setting(
        60.0,
        "Longest execution on a GPU, 1 or more; it is taken for lost after that, and its callers are "
        "answered. 0 is no end.",
        "number",
        least=0,
        most=86_400,
    )
    exit_on_gpu_loss: bool = setting(
        True,
        "Exit with 75 when a GPU is lost, for a supervisor to start the server anew; without, models on the "
        "CPU are served on, if there are any.",
        "switch",
    )
    pinned_memory_pool_byte_size: int = setting(
        0, "Most bytes of pinned memory that batches on GPUs may take; 0 is no bound.", "integer", least=0
    )
    cuda_memory_pool_byte_size: tuple[str, ...] = setting(
        (),
        "Most bytes of a GPU's memory that batches may take, GPU:BYTES; may be repeated. Without one, or "
        "with 0 bytes, there is no bound.",
        "list",
    )
    cache: Path = setting(
        Path("~/.cache"),
        "Folder of caches; plans that are rebuilt for the GPU of this machine go into `headrace` in it.",
        "path",
    )
    exit_timeout_secs: float = setting(
        30.0,
        "Longest wait on stop for requests in flight, cut off a second before, and for models to end.",
        "number",
        least=0,
    )
    drain_secs: float = setting(
        1.0,
        "How long a registered server goes on serving after leaving Consul, so that callers notice.",
        "number",
        least=0,
    )
    consul: bool = setting(False, "Register in Consul.", "switch")
    consul_required: bool = setting(False, "Exit if the first registration fails.", "switch")
    consul_service: str = setting("inference", "Name of the service in Consul.", "text")
    consul_tags: tuple[str, ...] = setting(
        (), "Further tag of the service in Consul; may be repeated.", "list"
    )
    consul_checks: tuple[str, ...] = setting(
        (),
        "Health check in Consul, `ttl` or `grpc`; may be repeated; default: both, and `ttl` alone with "
        "--tls-client-ca, as agents have no certificate of it.",
        "list",
        choices=("ttl", "grpc"),
    )
    consul_ttl_secs: float = setting(
        15.0, "TTL of the heartbeat; one is sent each third of it.", "number", least=1
    )
    consul_address: str = setting("127.0.0.1:8500", "Consul agent, host:port or URL.", "text")
    consul_token: str = setting("", "Consul ACL token.", "text", secret=True)
    consul_cacert: str = setting("", "CA certificate of a Consul agent that speaks HTTPS.", "text")
    consul_client_cert: str = setting("", "Client certificate for the Consul agent.", "text")
    consul_client_key: str = setting("", "Key of the client certificate for the Consul agent.", "text")
    consul_namespace: str = setting("", "Consul namespace.", "text")
    log_level: str = setting(
        "info",
        "Least severe messages that are logged.",
        "choice",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = setting(
        "text", "Lines for people, or a JSON object a line.", "choice", choices=("text", "json")
    )
