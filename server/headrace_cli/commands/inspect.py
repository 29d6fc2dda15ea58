"""`headrace inspect`: what is in a model's folder, and which of it would be served here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.text import Text

from headrace_cli import console, measured
from headrace_cli.failure import CommandError, needs, quiet
from headrace_cli.specs import batches, dims, tensor_document
from headrace_engines import files, manifest, report, standing
from headrace_engines.candidates import MODEL as FP32_FILE
from headrace_engines.errors import EngineError, ModelFileError, UnsupportedModelError
from headrace_engines.manifest import Manifest
from headrace_engines.report import Report
from headrace_engines.spec import ModelSpec
from headrace_engines.standing import Standing
from headrace_proto.tensors import datatype_of

if TYPE_CHECKING:
    from headrace_engines.engine import Engine
    from headrace_engines.network import Network

_MOST_ROWS: Final = 64
"""As many as a server takes where nothing is said."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """Everything that a path tells; manifest, report and artefacts only for what `headrace build` made."""

    path: Path
    spec: ModelSpec
    platform: str
    served: str
    why: tuple[str, ...]
    network: Network | None = None
    manifest: Manifest | None = None
    report: Report | None = None
    artefacts: tuple[Standing, ...] = ()


@click.command(name="inspect")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(path: Path, as_json: bool) -> None:
    """Show a model's tensors, layers, artefacts and measurements.

    PATH is a model's folder (its newest version is shown), a version's folder, or a file model.onnx.
    The model is loaded as a server would, so this also tells which artefact serves on this machine.

    \b
    Examples:
      headrace inspect models/digits
      headrace inspect models/digits/1 --json
      headrace inspect exported.onnx
    """
    place = _version_folder(path) if path.is_dir() else path
    with needs("cpu"), _naming(place), quiet("headrace_engines"):
        inspected = _inspect_version(place) if place.is_dir() else _inspect_file(place)
    if as_json:
        click.echo(json.dumps(_document(inspected), indent=2))
    else:
        _show(inspected)


@contextmanager
def _naming(place: Path) -> Iterator[None]:
    """Put the place before complaints, which name the file in it and no more."""
    try:
        yield
    except EngineError as error:
        folder = place if place.is_dir() else place.parent
        raise CommandError(f"{folder}: {error}") from error


def _inspect_file(path: Path) -> Inspected:
    engine = _opened(path)
    try:
        return Inspected(path, engine.spec, engine.platform, path.name, (), _network(path))
    finally:
        engine.close()


def _opened(path: Path) -> Engine:
    """Return a file as an engine; a plan, which no CPU can look into, on the first GPU."""
    if path.suffix != ".plan":
        from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path)
    from headrace_engines.declaration import NOTHING_DECLARED
    from headrace_engines.machine import THIS_MACHINE

    if not (gpus := THIS_MACHINE.gpus()):
        known = _known_of(path)
        reason = THIS_MACHINE.why_no_gpu()
        raise UnsupportedModelError(
            f"{path.name}: a plan is seen on a GPU alone: none was found ({reason}); {known}"
        )
    return THIS_MACHINE.plan_engine(
        path, min(gpus), max_batch_size=_MOST_ROWS, declaration=NOTHING_DECLARED, expected=None
    )


def _known_of(plan: Path) -> str:
    """Say whether a plan is the one that was built; needs no GPU. Raises ModelFileError if it is not."""
    files.check(plan)
    if not plan.stat().st_size:
        raise ModelFileError(f"{plan.name}: {files.nature(plan)}")
    described = manifest.read(plan.parent)
    made = next((one for one in described.artefacts if one.file == plan.name), None) if described else None
    if made is None:
        return "no manifest tells of it, so that nothing is known of it here"
    manifest.verify(plan.parent, made)
    return f"it is whole, its SHA-256 that of {manifest.FILE_NAME}"


def _inspect_version(folder: Path) -> Inspected:
    from headrace_engines.load import load

    loaded = load(folder)
    try:
        described = manifest.read(folder)
        return Inspected(
            folder,
            loaded.engine.spec,
            loaded.engine.platform,
            loaded.artefact,
            loaded.why,
            _network(folder / (FP32_FILE if (folder / FP32_FILE).is_file() else loaded.artefact)),
            described,
            _report(folder),
            standing.read(folder, described) if described else (),
        )
    finally:
        loaded.close()


def _report(folder: Path) -> Report | None:
    """Return what was measured; None where that is missing or damaged, as what is served tells."""
    try:
        return report.read(folder)
    except ModelFileError:
        return None


def _network(path: Path) -> Network | None:
    """Return what the file is made of; None for a program, and where nothing is installed that reads ONNX."""
    if path.suffix != ".onnx":
        return None
    try:
        from headrace_engines.network import network
    except ModuleNotFoundError:
        return None  # a server needs nothing of what builds
    return network(path)


def _version_folder(path: Path) -> Path:
    """Return the newest version in a model's folder, or the folder itself if it is a version."""
    versions = [entry for entry in path.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    if versions:
        return max(versions, key=lambda entry: int(entry.name))
    if any(entry.is_file() for entry in path.iterdir()):
        return path
    raise CommandError(f"{path} is no model: expected MODEL/VERSION/model.onnx or model.onnx in it")


def _document(inspected: Inspected) -> dict[str, object]:
    spec = inspected.spec
    compared = inspected.report.comparisons if inspected.report else ()
    return {
        "path": str(inspected.path),
        "platform": inspected.platform,
        "max_batch_size": spec.max_batch_size,
        "inputs": [tensor_document(tensor) for tensor in spec.inputs],
        "outputs": [tensor_document(tensor) for tensor in spec.outputs],
        "served": inspected.served,
        "why": list(inspected.why),
        "network": _network_document(inspected.network),
        "artefacts": [
            {**asdict(one.artefact), "passed": one.may_serve, "reason": one.reason}
            for one in inspected.artefacts
        ],
        "comparisons": [asdict(comparison) for comparison in compared],
        "built": _built_document(inspected),
    }


def _network_document(network: Network | None) -> dict[str, object] | None:
    if network is None:
        return None
    return {
        "parameters": network.parameters,
        "opsets": network.opsets,
        "producer": network.producer,
        "layers": [asdict(layer) for layer in network.layers],
    }


def _built_document(inspected: Inspected) -> dict[str, object] | None:
    """Return how the version was built; None for one that nobody built."""
    made, told = inspected.manifest, inspected.report
    if made is None:
        return None
    return {
        "source": asdict(made.source),
        "recipes": [asdict(recipe) for recipe in made.recipes],
        "gates": dict(made.gates),
        "made_up_data": made.made_up,
        "tools": dict(made.tools),
        "warnings": list(told.warnings) if told else [],
    }


def _show(inspected: Inspected) -> None:
    out = console.results()
    spec = inspected.spec
    out.print(Text.assemble((str(inspected.path), "bold"), f" ({inspected.platform})"), soft_wrap=True)
    tensors = [("input", tensor) for tensor in spec.inputs] + [("output", tensor) for tensor in spec.outputs]
    out.print(
        console.table(
            ("", "Name", "Type", "Dims of a row" if spec.has_batch_axis else "Dims"),
            [(kind, tensor.name, datatype_of(tensor.dtype), dims(tensor)) for kind, tensor in tensors],
        )
    )
    out.print(f"batches: {batches(spec)}")
    for line in inspected.why:
        out.print(line, soft_wrap=True, markup=False)
    if inspected.network:
        _show_network(inspected.network)
    if made := inspected.manifest:
        settings = ", ".join(f"{name} {value}" for name, value in made.source.settings.items())
        out.print(f"made from {made.source.name}: {settings}", soft_wrap=True, markup=False)
        out.print(measured.artefact_table(inspected.artefacts))
        judged = ", ".join(f"{name} {value}" for name, value in made.gates.items())
        out.print(f"gates: {judged}", soft_wrap=True, markup=False)
    if inspected.manifest and inspected.report:
        measured.show(out, inspected.manifest, inspected.report)


def _show_network(network: Network) -> None:
    out = console.results()
    rows = [(operator, str(count), f"{numbers:,}") for operator, count, numbers in network.operators]
    out.print(console.table(("Operator", "Layers ", "Parameters "), rows))
    opsets = ", ".join(f"{domain} {version}" for domain, version in network.opsets.items())
    out.print(
        f"{len(network.layers)} layers, {network.parameters:,} parameters, operators of {opsets}",
        soft_wrap=True,
        markup=False,
    )
