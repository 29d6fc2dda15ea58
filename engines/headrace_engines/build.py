"""From a source to a version in a model repository: `headrace build`.

The expensive part runs once for each combination of source, recipes and library versions on a
machine; after that a build is a copy from the store.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from headrace_engines import digits, folders, gates, manifest, publication, report, store
from headrace_engines.compress.recipes import RECIPES
from headrace_engines.documents import dump
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.manifest import Manifest
from headrace_engines.progress import Progress as Progress
from headrace_engines.report import Report
from headrace_engines.source import Source

REVISION = 1
"""Raised whenever the same source and tools come to make other bytes."""

_SOURCES = {source.recipe.name: source for source in (digits.SOURCE,)}
_TOOLS = ("numpy", "onnx", "onnxruntime")
_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build led to.

    `cached` says that the artefacts came from the store; `is_new` that the repository got a new
    version, which it does not if its newest one is the same.
    """

    folder: Path
    cached: bool
    is_new: bool
    manifest: Manifest
    report: Report


def build(source: str, name: str, into: Path, *, store_folder: Path, progress: Progress) -> BuildResult:
    """Build `source` and publish it as the model `name` in the repository `into`.

    A build that fails or is killed leaves the repository as it was. Raises UnsupportedModelError if
    `source` is none that can be built or a library is missing, GateError if an artefact is not good
    enough, ValueError if `name` cannot be a model's name, FolderError if a folder cannot be written.
    """
    publication.check_name(name)
    chosen = _SOURCES.get(source)
    if chosen is None:
        raise UnsupportedModelError(f"cannot build {source!r}; what can be built is: {', '.join(_SOURCES)}")
    tools = {tool: _version(tool, source) for tool in (*chosen.tools, *_TOOLS)}
    folders.check_writable(into)

    def make(folder: Path) -> None:
        from headrace_engines import pipeline  # libraries that a cached build does without

        pipeline.make(chosen, tools, folder, progress)

    with folders.writing(store_folder):
        entry, cached = store.find_or_make(
            store_folder, _key(chosen, tools), make, lambda: progress("waiting for another build", 0.0)
        )
    progress("publishing", 0.95)
    with folders.writing(into):
        folder, is_new = publication.publish(entry, into, name)
    progress("done", 1.0)
    return BuildResult(folder, cached, is_new, entry.manifest, entry.report)


def _key(source: Source, tools: dict[str, str]) -> str:
    """Return the name of all that decides the bytes of the artefacts, the gates included."""
    facts = {
        "revision": REVISION,
        "formats": [manifest.FORMAT_VERSION, report.FORMAT_VERSION],
        "source": asdict(source.recipe),
        "recipes": [asdict(RECIPES["int8-cpu"].recipe)],
        "tools": tools,
        "gates": [gates.MAX_DROP, gates.MAX_CREDIBLE_DROP, gates.MIN_SPEED_RATIO],
    }
    return hashlib.sha256(dump(facts)).hexdigest()


def _version(tool: str, source: str) -> str:
    for distribution in _DISTRIBUTIONS.get(tool, (tool,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    raise UnsupportedModelError(
        f"building {source!r} needs {tool}, which is not installed; "
        "in a clone of Headrace: pip install '.[cpu,build]'"
    )
