"""`headrace build`: a trained model becomes artefacts in a model repository."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from headrace_cli import console
from headrace_cli.build_options import (
    about_files,
    build_options,
    data_options,
    import_options,
    options_of,
    trusting,
)
from headrace_cli.cache import cache_option
from headrace_cli.failure import CommandError, ExitCode, failing, needs
from headrace_cli.stopping import stoppable

if TYPE_CHECKING:
    from headrace_engines.build import BuildOptions, BuildResult
    from headrace_engines.build import Progress as Told


@click.command(name="build")
@click.argument("source")
@click.option("--name", help="Name of the model in the repository. [default: SOURCE without its ending]")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), default=Path("models"), show_default=True,
    metavar="REPOSITORY", help="Folder of models that the new version goes into.",
)  # fmt: skip
@data_options
@build_options
@import_options
@cache_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: str, name: str | None, into: Path, cache: Path, as_json: bool, **given: Any) -> None:
    """Turn a trained model into artefacts that can be served.

    SOURCE is a file or folder: scikit-learn, XGBoost or LightGBM (pickle, joblib, skops, their own files),
    PyTorch, Keras, TensorFlow SavedModel, ONNX or PMML; or `digits`, a perceptron for scanned digits, trained
    here on data that scikit-learn brings.

    The model is converted to ONNX and compared with its source. Then it is compressed, and what comes of that
    is measured beside FP32 on rows that compression did not see. An artefact that lost too much, or is no
    faster, is not kept, and the table says why. One that was asked for by name and lost too much ends the
    build with its figures, and the repository stays as it was.

    \b
    Examples:
      headrace build digits
      headrace build model.joblib --data rows.npz --labels y --into models
      headrace build model.onnx --recipe int8-cpu --max-loss 0.02
    """
    name = _name(source) if name is None else name
    with stoppable(_whether_written(into, name)):
        with needs("cpu,build"), failing(ValueError, exit_code=ExitCode.USAGE):
            _check_source(source)
            options = options_of(**given)
        built = _built(source, name, into, cache, options)
    if as_json:
        click.echo(json.dumps(document(built), indent=2))
    else:
        show(built)


def _name(source: str) -> str:
    return Path(source).stem or source


def _check_source(source: str) -> None:
    """Raise ValueError for a source that is none, and for flags that tell nothing of it."""
    from headrace_engines.build import SOURCES

    if source == "-":
        raise ValueError(
            "'-' is no source: a model is opened as a file or a folder, and not read from standard input; "
            "give its path"
        )
    idle = about_files(click.get_current_context()) if source in SOURCES else []
    if idle:
        raise ValueError(
            f"{source!r} is trained here on rows of its own, and {', '.join(idle)} would change nothing of "
            f"it: leave that out, or name a file of that name as ./{source}"
        )


def _whether_written(into: Path, name: str) -> Callable[[], str]:
    """Return a function that says whether the model has got a version since."""

    def versions() -> set[Path]:
        return set((into / name).glob("*"))

    before = versions()
    return lambda: f"{'nothing' if versions() == before else 'a whole version'} was written into {into}"


def _built(source: str, name: str, into: Path, cache: Path, options: BuildOptions) -> BuildResult:
    """Build; a person at a terminal is asked whether code in the source may be executed."""
    from headrace_engines.errors import UntrustedSource

    try:
        with bar() as progress:
            return run(source, name, into, cache, progress, options)
    except CommandError as error:
        if not isinstance(error.__cause__, UntrustedSource) or not sys.stdin.isatty():
            raise
        click.echo(str(error), err=True)
    click.confirm("Open it?", abort=True, err=True)
    with bar() as progress:
        return run(source, name, into, cache, progress, trusting(options))


def run(
    source: str, name: str, into: Path, cache: Path, progress: Told, options: BuildOptions | None = None
) -> BuildResult:
    """Build, with the failures that a build is made for as errors of the command."""
    with needs("cpu,build"):
        from headrace_engines import build
        from headrace_engines.errors import EngineError, UnsupportedModelError
    with (
        failing(EngineError),
        failing(ValueError, UnsupportedModelError, exit_code=ExitCode.USAGE),
        needs("cpu,build"),
    ):
        told = options or build.BuildOptions()
        return build.build(source, name, into, options=told, store_folder=cache, progress=progress)


@contextmanager
def bar() -> Iterator[Told]:
    """Show a bar on a terminal, and a line a step where nobody watches."""
    shown = console.progress()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    if not shown.is_terminal:

        def tell(step: str, fraction: float) -> None:
            shown.print(f"{fraction:4.0%} {step}", markup=False)

        yield tell
        return
    with Progress(*columns, console=shown, transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def move(step: str, fraction: float) -> None:
            progress.update(task, description=step, completed=fraction)

        yield move


def document(built: BuildResult) -> dict[str, object]:
    """Return what came of a build for a JSON document: the manifest and the report, and where they are."""
    return {
        "folder": str(built.folder),
        "cached": built.cached,
        "is_new": built.is_new,
        "manifest": json.loads(built.manifest.to_bytes()),
        "report": json.loads(built.report.to_bytes()),
    }


def show(built: BuildResult) -> None:
    """Print what was made, how good it is, and where it is."""
    from headrace_cli import measured
    from headrace_engines.standing import standings

    out = console.results()
    out.print(measured.artefact_table(standings(built.manifest, built.report)))
    measured.show(out, built.manifest, built.report)
    origin = "found in the cache" if built.cached else f"built in {sum(built.report.seconds.values()):.1f} s"
    place = "put into" if built.is_new else "already the newest version:"
    out.print(f"{origin}, {place} {built.folder}", soft_wrap=True, markup=False)
    out.print(
        f"next: headrace serve --model-repository {built.folder.parent.parent}", soft_wrap=True, markup=False
    )
