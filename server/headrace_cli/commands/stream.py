"""`headrace stream`: many predictions over one stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.failure import ExitCode
from headrace_cli.target import TARGET_HELP, connected, input_options, target_arguments

if TYPE_CHECKING:
    from headrace import HeadraceError, Tls
    from headrace.messages import Arrays


@click.command(name="stream", epilog=TARGET_HELP)
@target_arguments
@input_options
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Rows for --zeros and --random.",
)
@click.option("--output", "wanted", multiple=True, help="Only this output; may be repeated.")
@click.option(
    "--max-in-flight", type=click.IntRange(min=1), default=64, show_default=True,
    help="Requests that wait for their answers at any time.",
)  # fmt: skip
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
    max_in_flight: int,
) -> int:
    """Ask a model many times over one stream.

    Each row is a request; of a model without a batch axis, each array of its input's shape. Results are
    JSON lines in the order in which they come; `key` is the row's number. NaN and infinities are strings. A
    request that fails is a line with `error`, and the exit code is 1. The throughput is told on standard
    error.

    \b
    Examples:
      headrace stream 127.0.0.1:8001 digits --input @rows.npy
      headrace stream 127.0.0.1:8001 digits --random --rows 10000 --max-in-flight 256 > answers.jsonl
    """
    from headrace_cli import tensor_input

    with connected(target, timeout_seconds, tls) as client:
        declared = client.metadata(model, version=version).inputs
        requests = list(enumerate(tensor_input.requests(assignments, filling, declared, rows)))
        began = time.perf_counter()
        outcomes = client.stream(
            requests, model=model, version=version, outputs=wanted or None, max_in_flight=max_in_flight
        )
        answered, failed = _print(outcomes)
        seconds = time.perf_counter() - began
    _tell(answered, failed, seconds)
    return ExitCode.FAILED if failed else ExitCode.OK


def _tell(answered: int, failed: int, seconds: float) -> None:
    told = f"{answered} answered and {failed} failed in {seconds:.2f} s: {answered / seconds:.0f} a second"
    click.echo(told, err=True)


def _print(outcomes: Iterable[tuple[int, Arrays | HeadraceError]]) -> tuple[int, int]:
    """Print each outcome as it comes; return how many are answers, and how many failures."""
    from headrace_cli import tensor_output

    answered = failed = 0
    for key, outcome in outcomes:
        line: dict[str, Any] = {"key": key}
        if isinstance(outcome, dict):
            answered += 1
            line["outputs"] = tensor_output.as_lists(outcome)
        else:
            failed += 1
            line |= {"error": str(outcome), "code": outcome.code.name}
        click.echo(json.dumps(line, allow_nan=False))
    return answered, failed
