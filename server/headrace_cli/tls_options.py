"""The flags by which a command that asks a model is told how to speak TLS."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from headrace_server.config import prepare_grpc

_FILES = {
    "tls_ca": "CA certificates (PEM) that the server's is held against; with it TLS is spoken.",
    "tls_cert": "Certificate (PEM) to show to a server that asks for one.",
    "tls_key": "Private key (PEM) of --tls-cert.",
}


def tls_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags; the function takes `tls`, a headrace.Tls, or None if no flag was given."""

    @wraps(function)
    def with_tls(*, tls: bool, tls_server_name: str | None, **options: Any) -> Any:
        files = {name: options.pop(name) for name in _FILES}
        if (files["tls_cert"] is None) != (files["tls_key"] is None):
            raise click.UsageError("--tls-cert and --tls-key belong together; only one is set")
        prepare_grpc()
        from headrace import Tls

        chosen = Tls(files["tls_ca"], files["tls_cert"], files["tls_key"], tls_server_name)
        return function(tls=chosen if tls or chosen != Tls() else None, **options)

    decorated: Callable[..., Any] = with_tls
    decorated = click.option(
        "--tls-server-name", metavar="NAME",
        help="Name that the server's certificate must be for. [default: the host that is called]",
    )(decorated)  # fmt: skip
    for name, told in reversed(_FILES.items()):
        flag = "--" + name.replace("_", "-")
        decorated = click.option(flag, name, metavar="FILE", help=told)(decorated)
    return click.option(
        "--tls", is_flag=True, help="Speak TLS, and hold certificates against the system's authorities."
    )(decorated)
