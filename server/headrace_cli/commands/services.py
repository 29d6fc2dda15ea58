"""`headrace services`: what Consul knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from rich.text import Text

from headrace_cli import console
from headrace_cli.failure import CommandError, ExitCode, failing
from headrace_cli.registry import instances

if TYPE_CHECKING:
    from headrace.endpoint import Endpoint

_STYLES = {"passing": "green", "warning": "yellow", "critical": "red", "maintenance": "blue"}


@click.command(name="services")
@click.argument("name", default="inference")
@click.option(
    "--consul", metavar="ADDRESS", help="The agent to ask. [default: 127.0.0.1:8500; CONSUL_HTTP_ADDR]"
)
@click.option("--model", default="", help="Only instances that serve this model.")
@click.option("--tag", "tags", multiple=True, help="Only instances with this tag; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str, consul: str | None, model: str, tags: tuple[str, ...], as_json: bool) -> None:
    """List the instances of a service that Consul knows.

    NAME is `inference` unless told. An agent that wants a token or speaks HTTPS is told about in Consul's
    own variables (CONSUL_HTTP_TOKEN, CONSUL_CACERT, …). The exit code is 1 if there is no instance.

    \b
    Examples:
      headrace services
      headrace services inference --model digits --json
      headrace services --consul 10.0.0.2:8500
    """
    with failing(ValueError, exit_code=ExitCode.USAGE), failing(ConnectionError):
        found = instances(name, agent=consul, model=model, tags=tags)
    if not found:
        raise CommandError(f"Consul knows no such instance of {name!r}")
    if as_json:
        click.echo(json.dumps([_document(endpoint) for endpoint in found], indent=2))
        return
    console.results().print(
        console.table(
            ("Address", "Status", "TLS", "Models", "Tags", "Id", "Version"),
            [_row(endpoint) for endpoint in found],
        )
    )


def _row(endpoint: Endpoint) -> tuple[console.Cell, ...]:
    status = endpoint.status.value
    return (
        endpoint.address,
        Text(status, _STYLES[status]),
        "yes" if endpoint.tls else "",
        endpoint.meta.get("models", ""),
        " ".join(endpoint.tags),
        endpoint.id,
        endpoint.meta.get("version", ""),
    )


def _document(endpoint: Endpoint) -> dict[str, object]:
    return {
        "id": endpoint.id,
        "address": endpoint.address,
        "status": endpoint.status.value,
        "weight": endpoint.weight,
        "tags": endpoint.tags,
        "meta": dict(endpoint.meta),
    }
