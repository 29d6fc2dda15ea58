"""From a source to a version in a model repository: `headrace build`.

The expensive part runs once for each combination of source, recipes and library versions on a
machine; after that a build is a copy from the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_engines import digits, folders, gates, imported, manifest, publication, report, store
from headrace_engines.compress.recipes import CPU, TENSORRT, Compression, chosen
from headrace_engines.documents import dump
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.imported import FileOptions
from headrace_engines.judgement import Wish
from headrace_engines.manifest import Manifest
from headrace_engines.plans import nvidia
from headrace_engines.progress import Progress as Progress
from headrace_engines.report import Report
from headrace_engines.source import Source

if TYPE_CHECKING:
    from headrace_engines.pipeline import Plan

REVISION = 5
"""Raised whenever the same source and tools come to make other bytes."""

AUTO = "auto"

SOURCES = {source.recipe.name: source for source in (digits.SOURCE,)}
"""What can be built without a file, by name."""

_TOOLS = ("numpy", "onnx", "onnxruntime")
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "xgboost": ("xgboost", "xgboost-cpu"),
}
"""Libraries that come under several names."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What may be told about a build; the defaults suit most models. `file` is about a source that is one."""

    file: FileOptions = field(default_factory=FileOptions)
    wish: Wish = Wish()
    recipes: tuple[str, ...] = (AUTO,)
    targets: tuple[str, ...] = (CPU,)
    max_batch_size: int = 64

    def check(self) -> None:
        """Raise ValueError for what cannot be wished for."""
        self.wish.check()
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size {self.max_batch_size}: expected 1 or more")

    def compressions(self) -> tuple[Compression, ...]:
        """Return the recipes to be tried; raises ValueError for one that there is not."""
        return chosen(self.recipes, self.targets)


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


def build(
    source: str,
    name: str,
    into: Path,
    *,
    options: BuildOptions = BuildOptions(),
    store_folder: Path,
    progress: Progress,
) -> BuildResult:
    """Build `source` and publish it as the model `name` in the repository `into`.

    `source` is a file, a folder, or the name of one of SOURCES. A build that fails or is killed leaves the
    repository as it was. Raises UnsupportedModelError if `source` is none that can be built or a library is
    missing, ModelFileError if it is damaged, DataError if the data do not fit it, UntrustedSource if opening
    it could execute code, GateError if the model, or an artefact that was asked for by its recipe's name, is
    not good enough, ValueError if `name` cannot be a model's name or an option is wrong, FolderError if a
    folder cannot be written.
    """
    publication.check_name(name)
    options.check()
    recipes = options.compressions()
    found = _source(source, options)
    tools = _tools(found, source, options)
    folders.check_writable(into)

    def make(folder: Path) -> None:
        from headrace_engines import pipeline  # libraries that a cached build does without

        caches = store_folder / store.CACHES
        pipeline.make(found, _plan(options, recipes), tools, folder, progress, caches)

    with folders.writing(store_folder):
        entry, cached = store.find_or_make(
            store_folder,
            key(found, options, tools),
            make,
            lambda: progress("waiting for another build", 0.0),
        )
    progress("publishing", 0.95)
    folder, is_new = publication.publish(entry, into, name)
    progress("done", 1.0)
    return BuildResult(folder, cached, is_new, entry.manifest, entry.report)


def _source(named: str, options: BuildOptions) -> Source:
    if named in SOURCES:
        return SOURCES[named]
    path = Path(named)
    if not path.exists():
        raise UnsupportedModelError(
            f"cannot build {named!r}: there is no such file or folder; "
            f"without one there is: {', '.join(SOURCES)}"
        )
    return imported.source(path, options.file)


def _plan(options: BuildOptions, recipes: tuple[Compression, ...]) -> Plan:
    from headrace_engines.pipeline import Plan

    demanded = frozenset(options.recipes) - {AUTO}
    return Plan(recipes, demanded, options.wish, options.max_batch_size, TENSORRT in options.targets)


def key(source: Source, options: BuildOptions, tools: Mapping[str, str]) -> str:
    """Return the name of all that decides the bytes of the artefacts, the gates included."""
    facts = {
        "revision": REVISION,
        "formats": [manifest.FORMAT_VERSION, report.FORMAT_VERSION],
        "source": asdict(source.recipe),
        "data": source.fingerprint,
        "recipes": [asdict(how.recipe) for how in options.compressions()],
        "demanded": sorted(options.recipes),
        "targets": sorted(options.targets),
        "wish": asdict(options.wish),
        "max_batch_size": options.max_batch_size,
        "tools": dict(tools),
        "gates": [gates.MAX_LOSS, gates.CREDIBLE_FACTOR, gates.CONFIDENCE, gates.MIN_SPEED_RATIO],
    }
    return hashlib.sha256(dump(facts)).hexdigest()


def _tools(found: Source, named: str, options: BuildOptions) -> dict[str, str]:
    """Return the versions of the libraries that decide the bytes."""
    tools = {tool: _version(tool, named, found.extra) for tool in (*found.tools, *_TOOLS)}
    if library := nvidia.installed() if TENSORRT in options.targets else None:
        tools[library.name] = library.version
    return tools


def _version(tool: str, source: str, extra: str) -> str:
    for distribution in _DISTRIBUTIONS.get(tool, (tool,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    raise UnsupportedModelError(
        f"building {source!r} needs {tool}, which is not installed; "
        f"in a clone of Headrace: pip install '.[cpu,{extra}]'"
    )
