"""`headrace build`: a trained model becomes artefacts in a model repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from headrace_cli import console
from headrace_cli.cache import cache_option
from headrace_cli.failure import ExitCode, failing, needs

if TYPE_CHECKING:
    from headrace_engines.build import BuildOptions, BuildResult
    from headrace_engines.build import Progress as Told


@click.command(name="build")
@click.argument("source")
@click.option("--name", help="Name of the model in the repository. [default: SOURCE]")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), default=Path("models"), show_default=True,
    metavar="REPOSITORY", help="Folder of models that the new version goes into.",
)  # fmt: skip
@click.option(
    "--recipe", "recipes", multiple=True, default=("auto",), show_default=True, metavar="NAME",
    help="How to compress it; may be given again. `auto` tries what suits the targets.",
)  # fmt: skip
@cache_option
def command(source: str, name: str | None, into: Path, recipes: tuple[str, ...], cache: Path) -> None:
    """Turn a trained model into artefacts that can be served.

    SOURCE is `digits`: a perceptron for scanned digits, trained here on data that scikit-learn brings.
    The model is converted to ONNX, quantised to INT8, and both are measured side by side on rows that
    neither training nor calibration saw. An artefact that lost too much accuracy, or is no faster, is
    refused with the figures, and the repository stays as it was.

    \b
    Examples:
      headrace build digits
      headrace build digits --name mnist-small --into /srv/models
    """
    with needs("cpu,build"):
        from headrace_engines.build import BuildOptions
    options = BuildOptions(recipes=recipes)
    with bar() as progress:
        built = run(source, source if name is None else name, into, cache, progress, options)
    show(built)


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
            shown.print(f"{fraction:4.0%} {step}")

        yield tell
        return
    with Progress(*columns, console=shown, transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def move(step: str, fraction: float) -> None:
            progress.update(task, description=step, completed=fraction)

        yield move


def show(built: BuildResult) -> None:
    """Print what was made, how good it is, and where it is."""
    from headrace_cli import measured

    out = console.results()
    out.print(measured.artefact_table(built.manifest.artefacts))
    out.print(measured.quality_table(built.report.comparisons))
    for comparison in built.report.comparisons:
        if comparison.speeds:
            out.print(measured.speed_table(comparison))
    origin = "found in the cache" if built.cached else f"built in {sum(built.report.seconds.values()):.1f} s"
    place = "put into" if built.is_new else "already the newest version:"
    out.print(f"{origin}, {place} {built.folder}", soft_wrap=True, markup=False)
    out.print(
        f"next: headrace serve --model-repository {built.folder.parent.parent}", soft_wrap=True, markup=False
    )
