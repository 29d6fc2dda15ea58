"""The server's configuration: one frozen object, read once, checked whole.

Each field of `ServerConfig` is a flag (`--grpc-port`), an environment variable
(`HEADRACE_GRPC_PORT`) and a key of the TOML file (`grpc_port`), in this order of precedence. This is
the only module of the server that reads the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from headrace_proto.consul import split_address

PREFIX: Final = "HEADRACE_"
_CONSUL_VARIABLES: Final = {
    "consul_address": "CONSUL_HTTP_ADDR",
    "consul_token": "CONSUL_HTTP_TOKEN",
    "consul_cacert": "CONSUL_CACERT",
    "consul_client_cert": "CONSUL_CLIENT_CERT",
    "consul_client_key": "CONSUL_CLIENT_KEY",
    "consul_namespace": "CONSUL_NAMESPACE",
}


class ConfigError(ValueError):
    """A value is wrong; the text names the setting, where it came from, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Option:
    """How one field is given: what the command line and the documentation are made from."""

    name: str
    help: str
    kind: str
    """"text", "path", "paths", "integer", "number", "switch", "list" or "choice"."""
    default: Any
    choices: tuple[str, ...] = ()
    secret: bool = False
    """Never shown, and no flag: a command line is visible to every process of the machine."""

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable; Consul's own where Consul's tools have one."""
        return _CONSUL_VARIABLES.get(self.name, PREFIX + self.name.upper())


def _setting(
    default: Any, text: str, kind: str, *, choices: tuple[str, ...] = (), secret: bool = False
) -> Any:
    return field(default=default, metadata={"help": text, "kind": kind, "choices": choices, "secret": secret})


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that the server can be told. Sizes in bytes, times in seconds, port 0 is any free port."""

    model_repository: tuple[Path, ...] = _setting(
        (Path("models"),), "Folder of models: MODEL/VERSION/model.onnx; may be repeated.", "paths"
    )
    model_control_mode: str = _setting(
        "none",
        "What changes the models that are served: nothing, a look at the repositories every so often, or "
        "callers (RepositoryModelLoad).",
        "choice",
        choices=("none", "poll", "explicit"),
    )
    load_model: tuple[str, ...] = _setting(
        (),
        "Model to load at the start, with --model-control-mode explicit, * for all; may be repeated.",
        "list",
    )
    repository_poll_secs: float = _setting(
        15.0, "Time between two looks at the repositories, with --model-control-mode poll.", "number"
    )
    allow_python_models: bool = _setting(
        False,
        "Execute versions that are programs (model.py); they can do whatever this process can.",
        "switch",
    )
    allow_client_shm: bool = _setting(
        False, "Let clients of this machine pass tensors through system shared memory.", "switch"
    )
    host: str = _setting("127.0.0.1", "Address to listen on.", "text")
    grpc_port: int = _setting(8001, "Port for gRPC; 0 is any free port.", "integer")
    listen: tuple[str, ...] = _setting(
        (), "Further address for gRPC, HOST:PORT or unix:PATH; may be repeated.", "list"
    )
    tls_cert: str = _setting("", "Certificate chain (PEM); with it gRPC is spoken over TLS.", "text")
    tls_key: str = _setting("", "Private key (PEM) of the certificate.", "text")
    tls_client_ca: str = _setting(
        "", "CA certificates (PEM); only clients with a certificate of theirs are let in.", "text"
    )
    grpc_keepalive_time: int = _setting(
        7_200_000, "Milliseconds without activity after which a client is pinged.", "integer"
    )
    grpc_keepalive_timeout: int = _setting(
        20_000, "Milliseconds that a pinged client has for its answer, before it is given up.", "integer"
    )
    grpc_http2_min_recv_ping_interval_without_data: int = _setting(
        500,
        "Least milliseconds between two pings of a client; one that pings more is cut off.",
        "integer",
    )
    grpc_max_connection_age: int = _setting(
        0,
        "Milliseconds after which a connection is asked to end, to spread load; 0 is never.",
        "integer",
    )
    grpc_max_connection_age_grace: int = _setting(
        0, "Milliseconds that calls then have to end; 0 is as long as they take.", "integer"
    )
    grpc_infer_response_compression_level: str = _setting(
        "none",
        "How much answers are compressed for clients that accept gzip.",
        "choice",
        choices=("none", "low", "medium", "high"),
    )
    grpc_channelz: bool = _setting(False, "Serve gRPC's own statistics of connections (channelz).", "switch")
    allow_metrics: bool = _setting(True, "Serve metrics for Prometheus.", "switch")
    metrics_port: int = _setting(8002, "Port for metrics, GET /metrics; 0 is any free port.", "integer")
    metrics_address: str = _setting("", "Address to serve metrics on; default: --host.", "text")
    trace_file: str = _setting("", "File that traces of requests are appended to (JSON).", "text")
    trace_level: tuple[str, ...] = _setting(
        ("OFF",), "What is traced: OFF, TIMESTAMPS; may be repeated.", "list", choices=("OFF", "TIMESTAMPS")
    )
    trace_rate: int = _setting(1000, "One request in so many is traced.", "integer")
    advertise: str = _setting(
        "", "Address that other hosts reach this server at, as registered in Consul; default: --host.", "text"
    )
    max_batch_size: int = _setting(64, "Most rows in one execution of a model.", "integer")
    max_queue_size: int = _setting(
        4096, "Requests that may wait for a model; more are refused with RESOURCE_EXHAUSTED.", "integer"
    )
    max_queue_bytes: int = _setting(
        1 << 30, "Bytes of tensors that may wait for a model; more are refused likewise.", "integer"
    )
    max_message_bytes: int = _setting(64 << 20, "Largest message that is accepted.", "integer")
    max_concurrent_calls: int = _setting(
        16384, "Calls and streams open at once; more are refused with RESOURCE_EXHAUSTED.", "integer"
    )
    max_streams: int = _setting(
        4096, "Streams open at once; more are refused with RESOURCE_EXHAUSTED.", "integer"
    )
    max_stream_requests: int = _setting(
        256, "Requests in flight on one stream; reading pauses while there are as many.", "integer"
    )
    max_in_flight_bytes: int = _setting(
        4 << 30,
        "Bytes of requests and answers held at once; more are refused with RESOURCE_EXHAUSTED, and a stream "
        "that holds a sixteenth of it is not read from.",
        "integer",
    )
    model_load_thread_count: int = _setting(2, "Models that are loaded at the same time.", "integer")
    exit_timeout_secs: float = _setting(
        30.0, "Longest wait on stop for requests in flight before they are cut off.", "number"
    )
    drain_secs: float = _setting(
        1.0,
        "How long a registered server goes on serving after leaving Consul, so that callers notice.",
        "number",
    )
    consul: bool = _setting(False, "Register in Consul.", "switch")
    consul_required: bool = _setting(False, "Exit if the first registration fails.", "switch")
    consul_service: str = _setting("inference", "Name of the service in Consul.", "text")
    consul_tags: tuple[str, ...] = _setting(
        (), "Further tag of the service in Consul; may be repeated.", "list"
    )
    consul_checks: tuple[str, ...] = _setting(
        ("ttl", "grpc"),
        "Health check in Consul, `ttl` or `grpc`; may be repeated.",
        "list",
        choices=("ttl", "grpc"),
    )
    consul_ttl_secs: float = _setting(15.0, "TTL of the heartbeat; one is sent each third of it.", "number")
    consul_address: str = _setting("127.0.0.1:8500", "Consul agent, host:port or URL.", "text")
    consul_token: str = _setting("", "Consul ACL token.", "text", secret=True)
    consul_cacert: str = _setting("", "CA certificate of a Consul agent that speaks HTTPS.", "text")
    consul_client_cert: str = _setting("", "Client certificate for the Consul agent.", "text")
    consul_client_key: str = _setting("", "Key of the client certificate for the Consul agent.", "text")
    consul_namespace: str = _setting("", "Consul namespace.", "text")
    log_level: str = _setting(
        "info",
        "Least severe messages that are logged.",
        "choice",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = _setting(
        "text", "Lines for people, or a JSON object a line.", "choice", choices=("text", "json")
    )


OPTIONS: Final[tuple[Option, ...]] = tuple(
    Option(
        f.name, f.metadata["help"], f.metadata["kind"], f.default, f.metadata["choices"], f.metadata["secret"]
    )
    for f in fields(ServerConfig)
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and for each setting where its value came from."""

    config: ServerConfig
    origins: Mapping[str, str]


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Loaded:
    """Make one configuration from flags, environment and file; the first that says something wins.

    `flags` holds only what was given. Raises ConfigError naming the setting and its origin.
    """
    flags = flags or {}
    environ = os.environ if environ is None else environ
    table = _read(file) if file else {}
    _refuse_unknown(flags, "the command line")
    _refuse_unknown(table, str(file))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        for origin, present, value in (
            (option.flag, option.name in flags, flags.get(option.name)),
            (option.variable, bool(environ.get(option.variable)), environ.get(option.variable)),
            (f"{option.name} in {file}", option.name in table, table.get(option.name)),
        ):
            if present:
                values[option.name] = _convert(option, value, origin)
                origins[option.name] = origin
                break
        else:
            origins[option.name] = "default"
    config = ServerConfig(**values)
    _check(config, origins)
    return Loaded(config, origins)


def prepare_grpc(environ: MutableMapping[str, str] | None = None) -> None:
    """Choose how gRPC's core polls, unless the person has; it reads this when it is first imported.

    Without its experimental listener a call costs a tenth to a fifth less of the processor.
    """
    (os.environ if environ is None else environ).setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a TOML file: {error}") from error


def _refuse_unknown(given: Mapping[str, Any], origin: str) -> None:
    known = {option.name for option in OPTIONS}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{origin}: there is no setting {name!r}; there are: {', '.join(sorted(known))}"
            )


def _convert(option: Option, value: Any, origin: str) -> Any:
    try:
        converted = _CONVERTERS[option.kind](value)
    except (TypeError, ValueError):
        raise ConfigError(f"{origin}: {value!r} is not {_ARTICLES[option.kind]}") from None
    allowed = option.choices
    for item in converted if isinstance(converted, tuple) else (converted,):
        if allowed and item not in allowed:
            raise ConfigError(f"{origin}: {item!r} is not one of {', '.join(allowed)}")
    return converted


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(value)
    return float(value)


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if (word := str(value).lower()) not in _SWITCH_WORDS:
        raise ValueError(value)
    return _SWITCH_WORDS[word]


def _list(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not all(isinstance(item, str) for item in items):
        raise TypeError(value)
    return tuple(item.strip() for item in items if item.strip())


def _paths(value: Any) -> tuple[Path, ...]:
    items = value.split(os.pathsep) if isinstance(value, str) else value
    paths = tuple(Path(item) for item in items if item)
    if not paths:
        raise ValueError(value)
    return paths


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


_SWITCH_WORDS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_CONVERTERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": _text, "choice": _text, "path": Path, "paths": _paths, "integer": _integer, "number": _number,
    "switch": _switch, "list": _list,
}  # fmt: skip
_ARTICLES: Final = {
    "text": "a text", "choice": "a text", "path": "a path", "paths": "a list of paths",
    "integer": "a whole number", "number": "a number",
    "switch": "true or false", "list": "a list of texts",
}  # fmt: skip
_LEAST: Final[Mapping[str, float]] = {
    "max_batch_size": 1, "max_queue_size": 1, "max_queue_bytes": 1, "max_in_flight_bytes": 1,
    "max_message_bytes": 1024, "max_concurrent_calls": 1, "max_stream_requests": 1, "max_streams": 1,
    "model_load_thread_count": 1, "repository_poll_secs": 0.1, "grpc_keepalive_time": 1000,
    "grpc_keepalive_timeout": 1, "grpc_http2_min_recv_ping_interval_without_data": 0,
    "grpc_max_connection_age": 0, "grpc_max_connection_age_grace": 0, "trace_rate": 1,
    "exit_timeout_secs": 0, "drain_secs": 0, "consul_ttl_secs": 1,
}  # fmt: skip
_SMALL_INTEGERS: Final = (
    "max_batch_size", "max_queue_size", "max_message_bytes", "max_concurrent_calls", "max_stream_requests",
    "max_streams", "model_load_thread_count", "grpc_keepalive_time", "grpc_keepalive_timeout",
    "grpc_http2_min_recv_ping_interval_without_data", "grpc_max_connection_age",
    "grpc_max_connection_age_grace",
)  # fmt: skip
_MOST: Final = 2**31 - 1
"""gRPC counts bytes and calls in 32 bits."""


def _check(config: ServerConfig, origins: Mapping[str, str]) -> None:
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if not value >= least or value == float("inf"):
            raise ConfigError(f"{origins[name]}: {value} is out of range; the least is {least}")
    for name in ("grpc_port", "metrics_port"):
        if not 0 <= getattr(config, name) <= 65535:
            raise ConfigError(f"{origins[name]}: {getattr(config, name)} is no port; 0 to 65535 are")
    if bool(config.tls_cert) != bool(config.tls_key):
        raise ConfigError("--tls-cert and --tls-key belong together; only one is set")
    if config.tls_client_ca and not config.tls_cert:
        raise ConfigError(f"{origins['tls_client_ca']}: it needs --tls-cert and --tls-key as well")
    if config.load_model and config.model_control_mode != "explicit":
        raise ConfigError(f"{origins['load_model']}: it needs --model-control-mode explicit")
    for name in ("host", "consul_service", "consul_address"):
        if not getattr(config, name):
            raise ConfigError(f"{origins[name]}: must not be empty")
    for name in _SMALL_INTEGERS:
        if getattr(config, name) > _MOST:
            raise ConfigError(
                f"{origins[name]}: {getattr(config, name)} is out of range; the most is {_MOST}"
            )
    try:
        split_address(config.consul_address)
    except ValueError as error:
        raise ConfigError(f"{origins['consul_address']}: {error}") from None
    if config.consul_required and not config.consul:
        raise ConfigError(f"{origins['consul_required']}: it needs --consul as well")
    if not config.consul_checks:
        raise ConfigError(f"{origins['consul_checks']}: at least one of ttl, grpc is expected")
    if bool(config.consul_client_cert) != bool(config.consul_client_key):
        raise ConfigError("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY belong together; only one is set")
