from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from headrace_server.config import OPTIONS, load, prepare_grpc
from headrace_server.config_checks import gpu_bounds
from headrace_server.options import ConfigError, Option
from headrace_server.server_config import ServerConfig


def written(folder: Path, text: str) -> Path:
    file = folder / "headrace.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_anything_every_setting_has_its_default() -> None:
    loaded = load({}, {})
    assert loaded.config == ServerConfig()
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == {option.name for option in OPTIONS}


@pytest.mark.parametrize(
    ("flags", "environ", "text", "port", "origin"),
    [
        ({"grpc_port": "1"}, {"HEADRACE_GRPC_PORT": "2"}, "grpc_port = 3", 1, "--grpc-port"),
        ({}, {"HEADRACE_GRPC_PORT": "2"}, "grpc_port = 3", 2, "HEADRACE_GRPC_PORT"),
        ({}, {}, "grpc_port = 3", 3, "grpc_port in {file}"),
        ({}, {"HEADRACE_GRPC_PORT": ""}, "", 8001, "default"),
    ],
)
def test_a_flag_goes_before_a_variable_before_the_file(
    tmp_path: Path, flags: dict[str, Any], environ: dict[str, str], text: str, port: int, origin: str
) -> None:
    file = written(tmp_path, text)
    loaded = load(flags, environ, file)
    assert loaded.config.grpc_port == port
    assert loaded.origins["grpc_port"] == origin.format(file=file)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("model_repository", "/srv/models", (Path("/srv/models"),)),
        ("model_repository", ["/a", "/b"], (Path("/a"), Path("/b"))),
        ("host", "::1", "::1"),
        ("grpc_port", "0", 0),
        ("grpc_port", 65535, 65535),
        ("max_batch_size", 16.0, 16),
        ("exit_timeout_secs", "0.5", 0.5),
        ("exit_timeout_secs", 0, 0.0),
        ("consul", "yes", True),
        ("consul", "FALSE", False),
        ("consul", True, True),
        ("consul_tags", "a, b,,c", ("a", "b", "c")),
        ("consul_tags", ["a", "b"], ("a", "b")),
        ("consul_checks", "grpc", ("grpc",)),
        ("log_level", "debug", "debug"),
        ("log_format", "json", "json"),
        ("max_message_bytes", 2**31 - 1, 2**31 - 1),
    ],
)
def test_values_become_what_the_setting_is(name: str, given: Any, value: Any) -> None:
    assert getattr(load({name: given}, {}).config, name) == value


@pytest.mark.parametrize("option", [option for option in OPTIONS if "consul_" in option.name])
def test_every_setting_of_consul_is_read_from_its_variable(option: Option) -> None:
    given = {"list": "ttl", "number": "7", "switch": "true"}.get(option.kind, "text")
    environ = {"HEADRACE_CONSUL": "true", option.variable: given}
    if option.name.startswith("consul_client"):
        environ = {"CONSUL_CLIENT_CERT": "text", "CONSUL_CLIENT_KEY": "text"}
    loaded = load({}, environ)
    assert loaded.origins[option.name] == option.variable
    assert getattr(loaded.config, option.name) != option.default or given == "ttl"


def test_secrets_have_no_flag_and_consuls_variable() -> None:
    secrets = [option for option in OPTIONS if option.secret]
    assert [(option.name, option.variable) for option in secrets] == [("consul_token", "CONSUL_HTTP_TOKEN")]


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("grpc_port", "http", "--grpc-port: 'http' is not a whole number"),
        ("grpc_port", 1.5, "--grpc-port: 1.5 is not a whole number"),
        ("grpc_port", True, "--grpc-port: True is not a whole number"),
        ("grpc_port", "65536", "--grpc-port: 65536 is no port; 0 to 65535 are"),
        ("grpc_port", "-1", "--grpc-port: -1 is no port; 0 to 65535 are"),
        ("max_batch_size", "0", "--max-batch-size: 0 is out of range; the least is 1"),
        ("max_queue_size", 0, "--max-queue-size: 0 is out of range; the least is 1"),
        ("max_queue_bytes", 0, "--max-queue-bytes: 0 is out of range; the least is 1"),
        ("max_message_bytes", 1023, "--max-message-bytes: 1023 is out of range; the least is 1024"),
        ("max_message_bytes", 2**31, "--max-message-bytes: 2147483648 is out of range; the most is 214748"),
        ("consul_required", True, "--consul-required: it needs --consul as well"),
        ("tls_client_ca", "ca.pem", "--tls-client-ca: it needs --tls-cert and --tls-key as well"),
        ("tls_cert", "cert.pem", "--tls-cert and --tls-key belong together; only one is set"),
        ("load_model", "m", "--load-model: it needs --model-control-mode explicit as well"),
        ("listen", ["0.0.0.0"], "--listen: '0.0.0.0' has no port: expected HOST:PORT or unix:PATH"),
        ("listen", "127.0.0.1:1,unix:", "--listen: 'unix:' has no path of a socket: expected unix:PATH"),
        ("trace_rate", 0, "--trace-rate: 0 is out of range; the least is 1"),
        ("grpc_keepalive_time", 999, "--grpc-keepalive-time: 999 is out of range; the least is 1000"),
        ("repository_poll_secs", 0, "--repository-poll-secs: 0.0 is out of range; the least is 0.1"),
        ("max_concurrent_calls", 10**12, "--max-concurrent-calls: 1000000000000 is out of range"),
        ("max_in_flight_bytes", 0, "--max-in-flight-bytes: 0 is out of range; the least is 1"),
        ("consul_address", "garbage:x:y", "--consul-address: "),
        ("consul_address", "unix:///x", "--consul-address: "),
        ("max_concurrent_calls", 0, "--max-concurrent-calls: 0 is out of range; the least is 1"),
        ("max_stream_requests", 0, "--max-stream-requests: 0 is out of range; the least is 1"),
        ("model_load_thread_count", 0, "--model-load-thread-count: 0 is out of range; the least is 1"),
        ("exit_timeout_secs", -1, "--exit-timeout-secs: -1.0 is out of range; the least is 0"),
        ("exit_timeout_secs", "nan", "--exit-timeout-secs: nan is out of range; the least is 0"),
        ("exit_timeout_secs", "inf", "--exit-timeout-secs: inf is out of range; a finite number is expected"),
        (
            "gpu_watchdog_secs",
            0.001,
            "--gpu-watchdog-secs: 0.001 is out of range; 0 is no end, else the least",
        ),
        ("gpu_watchdog_secs", 1e30, "--gpu-watchdog-secs: 1e+30 is out of range; the most is 86400"),
        ("cuda_memory_pool_byte_size", {"0": 1}, "--cuda-memory-pool-byte-size: {'0': 1} is not a list of"),
        ("cache", __file__, f"--cache: {__file__} is not a folder"),
        ("cache", f"{__file__}/a/b", f"--cache: {__file__} is not a folder"),
        ("exit_timeout_secs", "soon", "--exit-timeout-secs: 'soon' is not a number"),
        ("exit_timeout_secs", True, "--exit-timeout-secs: True is not a number"),
        ("drain_secs", -0.1, "--drain-secs: -0.1 is out of range; the least is 0"),
        ("consul_ttl_secs", 0.5, "--consul-ttl-secs: 0.5 is out of range; the least is 1"),
        ("consul", "maybe", "--consul: 'maybe' is not true or false"),
        ("consul_tags", [1], "--consul-tags: [1] is not a list of texts"),
        ("consul_checks", "ttl,http", "--consul-checks: 'http' is not one of ttl, grpc"),
        ("log_level", "loud", "--log-level: 'loud' is not one of debug, info, warning, error"),
        ("log_format", "xml", "--log-format: 'xml' is not one of text, json"),
        ("host", "", "--host: must not be empty"),
        ("host", 5, "--host: 5 is not a text"),
        ("consul_service", "", "--consul-service: must not be empty"),
        ("consul_address", "", "--consul-address: must not be empty"),
        ("model_repository", 5, "--model-repository: 5 is not a list of paths"),
        ("cuda_memory_pool_byte_size", ["1024"], "--cuda-memory-pool-byte-size: '1024' came, GPU:BYTES exp"),
        ("cuda_memory_pool_byte_size", "0:-5", "--cuda-memory-pool-byte-size: '0:-5' came, GPU:BYTES expec"),
        ("cuda_memory_pool_byte_size", "0:1,0:2", "--cuda-memory-pool-byte-size: GPU 0 has two bounds"),
        ("pinned_memory_pool_byte_size", -1, "--pinned-memory-pool-byte-size: -1 is out of range"),
        ("consul_client_key", "key.pem", "CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY belong together"),
    ],
)
def test_a_wrong_value_is_told_with_its_origin_and_what_is_allowed(name: str, given: Any, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({name: given}, {})
    assert str(refused.value).startswith(text)


def test_the_origin_of_a_wrong_value_is_the_one_that_counted(tmp_path: Path) -> None:
    file = written(tmp_path, "model_load_thread_count = 0")
    with pytest.raises(ConfigError, match=f"^model_load_thread_count in {file}: 0 is out of range"):
        load({}, {}, file)
    with pytest.raises(ConfigError, match=r"^HEADRACE_MODEL_LOAD_THREAD_COUNT: -2 is out of range"):
        load({}, {"HEADRACE_MODEL_LOAD_THREAD_COUNT": "-2"}, file)


def test_an_unknown_setting_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    file = written(tmp_path, "grpc_prot = 1")
    with pytest.raises(ConfigError, match=r"headrace.toml: there is no setting 'grpc_prot'; .*grpc_port"):
        load({}, {}, file)
    with pytest.raises(ConfigError, match=r"^the command line: there is no setting 'prot'"):
        load({"prot": 1}, {})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("HEADRACE_MAX_QUEUE_SZE", "HEADRACE_MAX_QUEUE_SIZE"),
        ("HEADRACE_GRPC_PROT", "HEADRACE_GRPC_PORT"),
        ("HEADRACE_CONSUL_ADDRESS", "CONSUL_HTTP_ADDR"),
    ],
)
def test_a_variable_that_is_nearly_a_settings_is_doubted(variable: str, meant: str) -> None:
    (doubt,) = load({}, {variable: "5"}).doubts
    assert doubt == f"{variable} is no setting's variable and says nothing; {meant} is one"


@pytest.mark.parametrize(
    "variable",
    [
        "HEADRACE_PORT", "HEADRACE_SERVICE_HOST", "HEADRACE_SERVICE_PORT", "HEADRACE_SERVICE_PORT_GRPC",
        "HEADRACE_PORT_8001_TCP", "HEADRACE_PORT_8001_TCP_ADDR", "HEADRACE_PORT_8001_TCP_PORT",
        "HEADRACE_PORT_8001_TCP_PROTO", "HEADRACE_CONFIG", "HEADRACE_DEBUG", "HEADRACE_LOG_LEVEL",
        "MAX_QUEUE_SIZE",
    ],
)  # fmt: skip
def test_what_orchestrators_set_is_not_doubted(variable: str) -> None:
    assert load({}, {variable: "debug"}).doubts == ()


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (b"grpc_port = ", "{file} is not a TOML file: "),
        (b"\xff\xfe", "cannot read the configuration file {file}: no UTF-8 text"),
        (b"#" * (1 << 20) + b"\n", "cannot read the configuration file {file}: larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, contents: bytes, complaint: str) -> None:
    file = tmp_path / "headrace.toml"
    file.write_bytes(contents)
    with pytest.raises(ConfigError, match=f"^{complaint.format(file=file)}"):
        load({}, {}, file)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load({}, {}, tmp_path / "none.toml")


def test_what_is_chosen_for_grpcs_core_gives_way_to_what_the_person_chose() -> None:
    environ = {"GRPC_VERBOSITY": "INFO"}
    prepare_grpc(environ)
    assert environ == {"GRPC_VERBOSITY": "INFO", "GRPC_EXPERIMENTS": "-event_engine_listener"}
    prepare_grpc(environ := {})
    assert environ["GRPC_VERBOSITY"] == "NONE"


def test_what_grpcs_core_is_told_is_told_with_its_origin() -> None:
    loaded = load({}, {"GRPC_EXPERIMENTS": ""})
    assert loaded.grpc == {
        "GRPC_EXPERIMENTS": ("", "GRPC_EXPERIMENTS"), "GRPC_VERBOSITY": ("NONE", "default"),
    }  # fmt: skip


@pytest.mark.parametrize("file", ["/dev/zero", "pipe"])
def test_what_is_no_file_is_not_waited_for(file: str, tmp_path: Path) -> None:
    path = tmp_path / file  # an absolute one stays what it is
    if file == "pipe":
        os.mkfifo(path)
    with pytest.raises(ConfigError, match=f"^cannot read the configuration file {path}: not a regular file"):
        load({}, {}, path)


def test_bounds_on_memory_of_gpus() -> None:
    config = load({"cuda_memory_pool_byte_size": ["0:67108864", "3:0"]}, {}).config
    assert gpu_bounds(config.cuda_memory_pool_byte_size) == {0: 67108864, 3: 0}


def test_caches_are_where_other_programs_have_theirs() -> None:
    loaded = load({}, {"XDG_CACHE_HOME": "/var/cache"})
    assert (loaded.config.cache, loaded.origins["cache"]) == (Path("/var/cache"), "XDG_CACHE_HOME")
    assert load({"cache": "here"}, {"XDG_CACHE_HOME": "/var/cache"}).config.cache == Path("here")
