"""Facts of Consul that servers, which register, and clients, which look up, must agree on."""

import hashlib
import re
from typing import Final
from urllib.parse import urlsplit

META_KEY_CHARACTERS: Final = 128
"""Longest key of a service's metadata that Consul takes."""

HASH_CHARACTERS: Final = 8

_REFUSED: Final = "[^A-Za-z0-9_-]"

DEFAULT_PORTS: Final = {"http": 8500, "https": 8501}


def model_key(model: str) -> str:
    """Return the key of a service's metadata in Consul that says that it serves this model.

    Servers set it and clients filter by it. Consul takes letters, digits, `-` and `_` alone: a name
    with others, or too long a one, is simplified and told from its likes by a hash of the name.
    """
    plain = f"model-{model}"
    if len(plain) <= META_KEY_CHARACTERS and not re.search(_REFUSED, plain):
        return plain
    digest = hashlib.sha256(model.encode()).hexdigest()[:HASH_CHARACTERS]
    # The other prefix keeps it apart from a plain name that looks like a simplified one.
    simplified = re.sub(_REFUSED, "_", f"model_{model}")
    return f"{simplified[: META_KEY_CHARACTERS - HASH_CHARACTERS - 1]}-{digest}"


def split_address(address: str) -> tuple[str, str, int]:
    """Return scheme, host (an IPv6 address without brackets) and port of an agent's address.

    It is host, host:port, or either after http:// or https://; ValueError says what is wrong with it.
    """
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(_malformed(address)) from error
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"Consul is reached by http:// or https://, not by {scheme}:// as {address!r} says")
    if not host or port == 0 or parts.path.strip("/") or parts.query or parts.username:
        raise ValueError(_malformed(address))
    return scheme, host, port or DEFAULT_PORTS[scheme]


def _malformed(address: str) -> str:
    return f"Consul's address is host:port or https://host:port, not {address!r}"
