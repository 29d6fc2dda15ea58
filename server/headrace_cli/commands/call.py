"""`headrace call`: one prediction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from headrace_cli.target import TARGET_HELP, connected, input_options, target_arguments

if TYPE_CHECKING:
    from headrace import Tls
    from headrace.messages import Parameters


def _parameters(
    _context: click.Context, _parameter: click.Parameter, assignments: tuple[str, ...]
) -> Parameters:
    """Return the parameters by name: what reads as JSON's true, false or a number is that, all else text."""
    parameters: dict[str, bool | int | float | str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{assignment!r} came, NAME=VALUE expected")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        parameters[name] = value if isinstance(value, bool | int | float) else text
    return parameters


@click.command(name="call", epilog=TARGET_HELP)
@target_arguments
@input_options
@click.option(
    "--rows", type=click.IntRange(min=1), default=1, show_default=True, help="Rows for --zeros and --random."
)
@click.option("--output", "wanted", multiple=True, help="Only this output; may be repeated.")
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parameters,
    help="A request parameter: true, false, a number or a text; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; NaN and infinities as strings.")
def command(
    target: str,
    model: str,
    version: str,
    timeout_seconds: float,
    tls: Tls | None,
    assignments: tuple[str, ...],
    filling: str | None,
    rows: int,
    wanted: tuple[str, ...],
    parameters: Parameters,
    as_json: bool,
) -> None:
    """Ask a model once.

    Types and shapes are those that the model declares; one row may leave out the batch axis.

    \b
    Examples:
      headrace call 127.0.0.1:8001 digits --zeros
      headrace call 127.0.0.1:8001 digits --input image=@image.npy --json
      headrace call example.org:8001 digits --zeros --tls-ca ca.pem
      headrace call consul:///inference sums --input a='[[1, 2]]' --input b='[[3, 4]]'
    """
    from headrace_cli import tensor_input, tensor_output

    with connected(target, timeout_seconds, tls) as client:
        declared = client.metadata(model, version=version).inputs
        inputs = tensor_input.fit(tensor_input.gather(assignments, filling, declared, rows), declared)
        outputs = client.infer(model, inputs, version=version, outputs=wanted or None, parameters=parameters)
    click.echo(tensor_output.as_json(outputs) if as_json else tensor_output.as_text(outputs))
