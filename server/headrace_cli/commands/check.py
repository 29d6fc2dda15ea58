"""`headrace check`: everything that is wrong with repositories or settings, before a server meets it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.markup import escape

from headrace_cli import console, settings, specs
from headrace_cli.failure import ExitCode, needs, quiet
from headrace_cli.server_options import SECRETS_EPILOG, configured, server_options
from headrace_cli.slow import SlowNotice
from headrace_proto.tensors import datatype_of
from headrace_server.config import Loaded
from headrace_server.config_checks import gpu_bounds

if TYPE_CHECKING:
    from headrace_engines.spec import TensorSpec
    from headrace_server.models.check import Checked, Servable, Trouble

_SLOW_SECONDS: Final = 10.0


@click.command(name="check", epilog=SECRETS_EPILOG)
@click.argument("repositories", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--show-config", is_flag=True, help="Show each setting of the server and where it comes from.")
@server_options
def command(
    repositories: tuple[Path, ...], as_json: bool, show_config: bool, file: Path | None, **flags: Any
) -> int:
    """Find everything that is wrong with folders of models.

    Each FOLDER is a model repository; without one, those that `headrace serve` would take. Every
    version that a server would load is loaded and executed, so it takes as long. All problems are
    told at once, with file, line and field; the exit code is 1 if there is any. What takes longer
    than ten seconds is named on stderr: a program that hangs holds up the check. Takes all flags
    of `headrace serve`.

    \b
    Examples:
      headrace check models
      headrace check models --allow-python-models --json
      headrace check --show-config --config headrace.toml
    """
    if repositories:
        flags["model_repository"] = tuple(map(str, repositories))
    loaded = configured(flags, file)
    if show_config:
        settings.show(loaded, as_json=as_json)
        return ExitCode.OK
    checked = _checked(loaded)
    if as_json:
        click.echo(json.dumps(_document(checked), indent=2))
    else:
        _show(checked)
    return ExitCode.FAILED if checked.troubles else ExitCode.OK


def _checked(loaded: Loaded) -> Checked:
    with needs("cpu"):
        from headrace_engines.machine import Machine
        from headrace_server.models.check import check
        from headrace_server.models.versions import LoadOptions
    config = loaded.config
    bounds = gpu_bounds(config.cuda_memory_pool_byte_size)
    machine = Machine(config.cache.expanduser())
    machine.bound_memory(config.pinned_memory_pool_byte_size, bounds)
    options = LoadOptions(
        config.max_batch_size,
        allow_python=config.allow_python_models,
        machine=machine,
        replanner=machine.replanner(),
    )
    progress = console.progress()

    def tell_slow(what: str) -> None:
        text = f"{what}: still loaded, executed or closed after {_SLOW_SECONDS:g} s"
        progress.print(text, soft_wrap=True, markup=False)

    with (
        progress.status("") as status,
        SlowNotice(_SLOW_SECONDS, tell_slow) as slow,
        quiet("headrace_engines"),
        quiet("headrace_server"),
    ):

        def tell(what: str) -> None:
            status.update(f"loading {escape(what)}")
            slow.begin(what)

        return check(config.model_repository, options, tell)


def _show(checked: Checked) -> None:
    out = console.results()
    for trouble in checked.troubles:
        out.print(_line(trouble), soft_wrap=True, markup=False)
    if checked.servable:
        out.print(
            console.table(
                ("Model", "Version ", "File", "Inputs", "Outputs", "Batches", "Instances ", "Memory "),
                map(_row, checked.servable),
            )
        )
    for servable in checked.servable:
        for line in servable.why:
            out.print(f"{servable.model} version {servable.version}: {line}", soft_wrap=True, markup=False)
    out.print(f"problems: {len(checked.troubles)}; versions that would be served: {len(checked.servable)}")


def _line(trouble: Trouble) -> str:
    """Return a problem as editors and terminals take it: path, line, field, what is wrong."""
    place = f"{trouble.path}:{trouble.line}" if trouble.line else str(trouble.path)
    field = f" {trouble.field}:" if trouble.field else ""
    suggestion = f"; {trouble.suggestion}" if trouble.suggestion else ""
    return f"{place}:{field} {trouble.text}{suggestion}"


def _row(servable: Servable) -> tuple[str, ...]:
    return (
        servable.model,
        servable.version,
        servable.artefact,
        _tensors(servable.spec.inputs),
        _tensors(servable.spec.outputs),
        specs.batches(servable.spec),
        str(servable.instances),
        _memory(servable),
    )


def _memory(servable: Servable) -> str:
    on_gpus = (f", GPU {gpu} {console.human_size(held)}" for gpu, held in servable.gpu_memory_bytes.items())
    return console.human_size(servable.memory_bytes) + "".join(on_gpus)


def _tensors(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{tensor.name} {datatype_of(tensor.dtype)} {list(tensor.dims)}" for tensor in tensors)


def _document(checked: Checked) -> dict[str, object]:
    return {
        "problems": [{**asdict(trouble), "path": str(trouble.path)} for trouble in checked.troubles],
        "servable": [
            {
                "model": servable.model,
                "version": servable.version,
                "file": servable.artefact,
                "platform": servable.platform,
                "max_batch_size": servable.spec.max_batch_size,
                "inputs": [specs.tensor_document(tensor) for tensor in servable.spec.inputs],
                "outputs": [specs.tensor_document(tensor) for tensor in servable.spec.outputs],
                "instances": servable.instances,
                "memory_bytes": servable.memory_bytes,
                "gpu_memory_bytes": {str(gpu): held for gpu, held in servable.gpu_memory_bytes.items()},
                "why": list(servable.why),
            }
            for servable in checked.servable
        ],
    }
