"""`headrace export`: a trained model, or one that was built, as a file for other programs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace_cli import console
from headrace_cli.build_options import import_options, importing_of
from headrace_cli.failure import CommandError, ExitCode, failing, needs
from headrace_cli.stopping import stoppable

if TYPE_CHECKING:
    from headrace_engines.importers.importer import ImportOptions


@click.command(name="export")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("to", type=click.Path(path_type=Path, dir_okay=False))
@import_options
def command(source: Path, to: Path, **given: Any) -> None:
    """Write a trained model as ONNX or PMML.

    SOURCE is a file that `headrace build` takes, or the folder of a model that was built, of which the FP32
    model is taken. TO says by its ending what is written: .onnx, or .pmml for linear models, decision trees
    and forests of scikit-learn. A file that exists is left as it is.

    \b
    Examples:
      headrace export model.joblib model.pmml --trust
      headrace export classifier.keras classifier.onnx
      headrace export models/digits digits.onnx
    """
    with stoppable(lambda: f"{to if to.exists() else 'nothing'} was written"):
        with needs("build"), failing(ValueError, exit_code=ExitCode.USAGE):
            options = importing_of(**given)
        written = _exported(source, to, options)
    console.results().print(f"written: {', '.join(map(str, written))}", soft_wrap=True, markup=False)


def _exported(source: Path, to: Path, options: ImportOptions) -> tuple[Path, ...]:
    """Export; a person at a terminal is asked whether code in the source may be executed."""
    from headrace_engines.errors import UntrustedSource

    try:
        return _run(source, to, options)
    except CommandError as error:
        if not isinstance(error.__cause__, UntrustedSource) or not sys.stdin.isatty():
            raise
        click.echo(str(error), err=True)
    click.confirm("Open it?", abort=True, err=True)
    return _run(source, to, replace(options, is_trusted=True))


def _run(source: Path, to: Path, options: ImportOptions) -> tuple[Path, ...]:
    from headrace_engines.errors import EngineError, UnsupportedModelError

    with (
        failing(EngineError),
        failing(ValueError, UnsupportedModelError, exit_code=ExitCode.USAGE),
        needs("build"),
    ):
        from headrace_engines.export import export

        return export(source, to, options)
