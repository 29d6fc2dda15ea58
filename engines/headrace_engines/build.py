"""From a source to a version in a model repository: `headrace build`.

The expensive part runs once for each combination of source, recipes and library versions; after that a
build is a copy from the store, the speed of which is measured once on each machine that shares it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

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
from headrace_engines.store import Wanted

REVISION = 7
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

    def compressions(self, *, alone: bool = False) -> tuple[Compression, ...]:
        """Return the recipes to be tried, where a model is served one row at a time if `alone`.

        Raises ValueError for one that there is not.
        """
        return chosen(self.recipes, self.targets, alone=alone)


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
    _check_apart(into, store_folder)
    options.check()
    options.compressions()  # raises for a recipe that there is not, before anything is opened
    found = _source(source, options)
    tools = _tools(found, source, options)
    folders.check_writable(into)
    work = _Work(found, options, tools, store_folder / store.CACHES, progress)
    named, machine = key(found, options, tools), report.machine_key(report.machine())
    wanted = Wanted(named, machine, work.make, work.measure, work.is_same)
    with (
        folders.writing(store_folder),
        store.find_or_make(store_folder, wanted, lambda: progress("waiting for another build", 0.0)) as kept,
    ):
        entry, cached = kept
        progress("publishing", 0.95)
        folder, is_new = publication.publish(entry, into, name)
    progress("done", 1.0)
    return BuildResult(folder, cached, is_new, entry.manifest, entry.report)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done for a build that the store does not hold; the libraries for it are imported only then."""

    source: Source
    options: BuildOptions
    tools: Mapping[str, str]
    caches: Path
    progress: Progress

    def make(self, folder: Path) -> None:
        from headrace_engines import pipeline

        options = self.options
        plan = pipeline.Plan(
            options.compressions(),
            options.compressions(alone=True),
            frozenset(options.recipes) - {AUTO},
            options.wish,
            options.max_batch_size,
            TENSORRT in options.targets,
        )
        pipeline.make(self.source, plan, self.tools, folder, self.progress, self.caches)

    def measure(self, folder: Path, described: Manifest, known: Report) -> None:
        from headrace_engines import pipeline

        pipeline.measure(self.source, described, known, folder, self.progress)

    def is_same(self, described: Manifest) -> bool:
        return self.source.is_same(described.source.settings)


def _check_apart(into: Path, store_folder: Path) -> None:
    """Raise ValueError where both are one folder, which is locked for the one and then for the other."""
    if into.resolve() == store_folder.resolve():
        raise ValueError(f"{into} is where builds are kept: name another folder for the model repository")


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


def key(source: Source, options: BuildOptions, tools: Mapping[str, str]) -> str:
    """Return the name of all that decides the bytes of the artefacts, the gates included, on any machine."""
    facts = {
        "revision": REVISION,
        "formats": [manifest.FORMAT_VERSION, report.FORMAT_VERSION],
        "source": asdict(source.recipe),
        "data": source.fingerprint,
        "recipes": [asdict(how.recipe) for how in options.compressions()],
        "alone": [asdict(how.recipe) for how in options.compressions(alone=True)],
        "demanded": sorted(options.recipes),
        "targets": sorted(options.targets),
        "wish": asdict(options.wish),
        "max_batch_size": options.max_batch_size,
        "tools": dict(tools),
        "plans": _architecture(options),
        "gates": [gates.MAX_LOSS, gates.CREDIBLE_FACTOR, gates.CONFIDENCE, gates.MIN_SPEED_RATIO],
    }
    return hashlib.sha256(dump(facts)).hexdigest()


def _tools(found: Source, named: str, options: BuildOptions) -> dict[str, str]:
    """Return the versions of the libraries that decide the bytes."""
    tools = {tool: _version(tool, named, found.extra) for tool in (*found.tools, *_TOOLS)}
    if library := nvidia.installed() if TENSORRT in options.targets else None:
        tools[library.name] = library.version
    return tools


def _architecture(options: BuildOptions) -> str:
    """Return for which GPUs plans are built here; "" where none are."""
    library = nvidia.installed() if TENSORRT in options.targets else None
    try:
        return nvidia.architecture(library) if library else ""
    except UnsupportedModelError:
        return ""


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
