"""What must hold of a whole configuration, beyond what each setting says of its own value."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from headrace_proto.consul import split_address
from headrace_server.listen_address import parse as parse_listen_address
from headrace_server.options import ConfigError
from headrace_server.server_config import ServerConfig

_LEAST_WATCHDOG_SECONDS: Final = 1.0
"""What a sound execution may take on a machine that is busy."""


def check(config: ServerConfig, origins: Mapping[str, str]) -> None:
    """Raise ConfigError for what no single setting shows to be wrong, and addresses without sense."""
    for name in ("host", "consul_service", "consul_address"):
        if not getattr(config, name):
            raise ConfigError(f"{origins[name]}: must not be empty")
    try:
        split_address(config.consul_address)
    except ValueError as error:
        raise ConfigError(f"{origins['consul_address']}: {error}") from None
    for address in config.listen:
        try:
            parse_listen_address(address)
        except ValueError as error:
            raise ConfigError(f"{origins['listen']}: {error}") from None
    try:
        gpu_bounds(config.cuda_memory_pool_byte_size)
    except ValueError as error:
        raise ConfigError(f"{origins['cuda_memory_pool_byte_size']}: {error}") from None
    if 0 < config.gpu_watchdog_secs < _LEAST_WATCHDOG_SECONDS:
        text = f"{config.gpu_watchdog_secs} is out of range; 0 is no end, else the least is 1"
        raise ConfigError(f"{origins['gpu_watchdog_secs']}: {text}")
    _check_cache(config.cache.expanduser(), origins["cache"])
    for cert, key, told in (
        ("tls_cert", "tls_key", "--tls-cert and --tls-key"),
        ("consul_client_cert", "consul_client_key", "CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"),
    ):
        if bool(getattr(config, cert)) != bool(getattr(config, key)):
            raise ConfigError(f"{told} belong together; only one is set")
    for name, needed, told in (
        ("tls_client_ca", bool(config.tls_cert), "--tls-cert and --tls-key"),
        ("load_model", config.model_control_mode == "explicit", "--model-control-mode explicit"),
        ("consul_required", config.consul, "--consul"),
    ):
        if getattr(config, name) and not needed:
            raise ConfigError(f"{origins[name]}: it needs {told} as well")


def _check_cache(folder: Path, origin: str) -> None:
    """Raise ConfigError where a file stands in the way of the folder, which need not be there."""
    first = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not first.is_dir():
        raise ConfigError(f"{origin}: {first} is not a folder")


def gpu_bounds(texts: Sequence[str]) -> dict[int, int]:
    """Return bytes by the index of a GPU, from texts GPU:BYTES. Raises ValueError for any other text."""
    bounds: dict[int, int] = {}
    for text in texts:
        numbers = text.split(":")
        if len(numbers) != 2 or not all(part.isascii() and part.isdecimal() for part in numbers):
            raise ValueError(f"{text!r} came, GPU:BYTES expected, for example 0:1073741824")
        gpu, size_bytes = map(int, numbers)
        if gpu in bounds:
            raise ValueError(f"GPU {gpu} has two bounds")
        bounds[gpu] = size_bytes
    return bounds
