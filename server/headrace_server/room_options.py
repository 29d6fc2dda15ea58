"""What each room is told of the configuration."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import grpc

from headrace_engines.errors import DeviceError
from headrace_engines.machine import THIS_MACHINE, Machine
from headrace_engines.runtime.cuda.driver import no_such_gpu
from headrace_proto import __version__
from headrace_server.config_checks import gpu_bounds
from headrace_server.core.model import Limits
from headrace_server.discovery.consul import ConsulSettings
from headrace_server.discovery.registry import ServiceEntry, checks_for
from headrace_server.guard.tls import TlsFiles, server_credentials
from headrace_server.listen_address import ListenAddress
from headrace_server.listen_address import parse as parse_listen_address
from headrace_server.models.catalogue import ModelCatalogue
from headrace_server.models.repository import Mode, RepositoryOptions
from headrace_server.models.versions import LoadOptions
from headrace_server.server_config import ServerConfig
from headrace_server.telemetry.gpus import Samples
from headrace_server.telemetry.trace_file import TraceWriter
from headrace_server.telemetry.trace_settings import OFF, TIMESTAMPS, TraceSettings
from headrace_server.telemetry.tracing import Tracing
from headrace_server.transport.connections import Compression, ConnectionOptions
from headrace_server.transport.cuda_shared_memory import DeviceMemory
from headrace_server.transport.open_calls import InferenceLimits
from headrace_server.transport.options import TransportOptions

_logger = logging.getLogger(__name__)


def transport_options(config: ServerConfig) -> TransportOptions:
    """Return where to listen, and what clients are granted."""
    return TransportOptions(
        addresses=(ListenAddress(config.host, config.grpc_port), *map(parse_listen_address, config.listen)),
        inference=InferenceLimits(
            max_calls=config.max_concurrent_calls,
            max_streams=config.max_streams,
            max_stream_requests=config.max_stream_requests,
            max_in_flight_bytes=config.max_in_flight_bytes,
        ),
        connections=ConnectionOptions(
            max_message_bytes=config.max_message_bytes,
            max_metadata_bytes=config.max_metadata_bytes,
            max_connections=config.max_connections,
            keepalive_time_ms=config.grpc_keepalive_time,
            keepalive_timeout_ms=config.grpc_keepalive_timeout,
            min_ping_interval_ms=config.grpc_http2_min_recv_ping_interval_without_data,
            max_age_ms=config.grpc_max_connection_age,
            max_age_grace_ms=config.grpc_max_connection_age_grace,
            compression=Compression[config.grpc_infer_response_compression_level.upper()],
            channelz=config.grpc_channelz,
        ),
        credentials=_credentials(config),
        allow_client_shm=config.allow_client_shm,
        device_memory=_device_memory,
        message_timeout_seconds=config.message_timeout_secs,
    )


def _device_memory() -> DeviceMemory | str:
    """Return what opens clients' memory on GPUs, or why none can be used."""
    from headrace_engines.runtime.cuda import shared_memory

    return shared_memory.why_none() or shared_memory.SharedMemory()


def _credentials(config: ServerConfig) -> Callable[[], grpc.ServerCredentials] | None:
    if not config.tls_cert:
        return None
    client_ca = _fixed(config.tls_client_ca) if config.tls_client_ca else None
    files = TlsFiles(_fixed(config.tls_cert), _fixed(config.tls_key), client_ca)
    return functools.partial(server_credentials, files)


def repository_options(config: ServerConfig) -> RepositoryOptions:
    """Return which folders hold the models, and how they are kept up with."""
    machine = Machine(_fixed(config.cache.expanduser()))
    return RepositoryOptions(
        folders=tuple(map(_fixed, config.model_repository)),
        mode=Mode(config.model_control_mode),
        load_at_start=config.load_model,
        poll_seconds=config.repository_poll_secs,
        parallel=config.model_load_thread_count,
        load=LoadOptions(
            max_batch_size=config.max_batch_size,
            limits=Limits(config.max_queue_size, config.max_queue_bytes),
            allow_python=config.allow_python_models,
            machine=machine,
            replanner=machine.replanner(),
        ),
    )


def bound_gpu_memory(config: ServerConfig) -> None:
    """Set how much memory batches on GPUs may take. To be called before the first model is loaded."""
    bounds = gpu_bounds(config.cuda_memory_pool_byte_size)
    THIS_MACHINE.bound_memory(config.pinned_memory_pool_byte_size, bounds)
    there = THIS_MACHINE.gpus() if bounds else {}
    for gpu in bounds.keys() - there.keys():
        why = no_such_gpu(gpu, there) if there else f"there is no GPU: {THIS_MACHINE.why_no_gpu()}"
        _logger.warning("--cuda-memory-pool-byte-size %d:%d bounds nothing: %s", gpu, bounds[gpu], why)


def tracing(config: ServerConfig, catalogue: ModelCatalogue) -> Tracing:
    """Return the tracing of these models. Raises TraceFileError where its file cannot be written."""
    writer = TraceWriter(_fixed(config.trace_file)) if config.trace_file else None
    level = TIMESTAMPS if TIMESTAMPS in config.trace_level else OFF
    defaults = TraceSettings(trace_level=level, trace_rate=config.trace_rate)
    return Tracing(catalogue, defaults, writer)


def consul_settings(config: ServerConfig) -> ConsulSettings:
    """Return how to reach the agent."""
    return ConsulSettings(
        address=config.consul_address,
        token=config.consul_token,
        cacert=_fixed_text(config.consul_cacert),
        client_cert=_fixed_text(config.consul_client_cert),
        client_key=_fixed_text(config.consul_client_key),
        namespace=config.consul_namespace,
    )


def service_entry(
    config: ServerConfig, port: int, metrics_port: int | None, models: dict[str, str]
) -> ServiceEntry:
    """Return what is registered of a server that listens on this port and answers for these models."""
    return ServiceEntry(
        address=config.advertise or config.host,
        port=port,
        name=config.consul_service,
        tags=config.consul_tags,
        models=models,
        version=__version__,
        metrics_port=metrics_port,
        tls=bool(config.tls_cert),
        checks=checks_for(config.consul_checks, clients_need_certificate=bool(config.tls_client_ca)),
        ttl_seconds=config.consul_ttl_secs,
    )


def gpu_samples() -> Samples:
    """Return what each GPU tells of itself; nothing where there is none, or no library to ask. May block."""
    from headrace_engines.runtime.cuda import gpu, nvml

    samples = {facts.uuid: nvml.sample(facts.uuid) for facts in gpu.available()}
    return {uuid: sample for uuid, sample in samples.items() if sample is not None}


def declare_gpu_lost(gpu: int, reason: str) -> None:
    """Have everything on that GPU fail from now on, and what is loaded there later. Returns at once."""

    def declare() -> None:
        from headrace_engines.runtime.cuda.gpu import open_gpu

        try:
            open_gpu(gpu).declare_lost(reason)
        except DeviceError as error:
            _logger.info("GPU %d was gone before: %s", gpu, error)

    # The driver may hold whoever asks, as it holds the thread that is lost.
    threading.Thread(target=declare, name=f"gpu-{gpu}-lost", daemon=True).start()


def _fixed(path: str | Path) -> Path:
    """Return the path as it is meant at the start: a model that is a program may leave this folder."""
    return Path(path).absolute()


def _fixed_text(path: str) -> str:
    return str(_fixed(path)) if path else ""
