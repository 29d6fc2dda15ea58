"""What would be served of some repositories, and everything that is in the way of it.

Each version that a server would load is loaded, warmed up and closed again, so that whatever a server
would find is found here, for all models at once. All that was built is compared with its manifest, also
what is not chosen here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines import manifest, report, standing
from headrace_engines.errors import ModelFileError
from headrace_engines.spec import ModelSpec
from headrace_server.models import model_config
from headrace_server.models.layout import (
    HIGHEST_VERSION,
    FoundModel,
    RepositoryError,
    is_number,
    is_version,
    scan,
)
from headrace_server.models.model_config import GivenConfig
from headrace_server.models.model_config_platform import USUAL_FILES
from headrace_server.models.model_config_problems import CONFIG_FILE, ConfigError, Problem, did_you_mean
from headrace_server.models.settlement import load_declared, settle
from headrace_server.models.versions import LoadOptions
from headrace_server.models.warmup import warm_up

_logger = logging.getLogger(__name__)

_NAMES_IN_A_MODEL: Final = (CONFIG_FILE, "warmup")
_DECISIVE: Final = frozenset(("", "platform", "backend", "default_model_filename", "max_batch_size"))
"""Fields without which nobody knows what to load; "" is a file that cannot be read to its end."""

_APART: Final = (".label_filename", ".format")
"""Fields of a tensor that do not make it another one."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing in the way. `path` is what has to be looked at; `line` is 0 where that has none."""

    path: Path
    text: str
    line: int = 0
    field: str = ""
    suggestion: str = ""


@dataclass(frozen=True, slots=True)
class Servable:
    """A version that would be served, and how."""

    model: str
    version: str
    artefact: str
    platform: str
    spec: ModelSpec
    instances: int
    memory_bytes: int
    """Of the host, for all instances and the model's files."""
    gpu_memory_bytes: Mapping[int, int]
    """The same of each GPU, by its index."""
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found out about some repositories."""

    servable: tuple[Servable, ...]
    troubles: tuple[Trouble, ...]


def check(
    repositories: Sequence[Path], options: LoadOptions, on_version: Callable[[str], None] = lambda _: None
) -> Checked:
    """Look at every model of the repositories. `on_version` is told what is being loaded.

    Takes as long as a server takes to load them, one after the other.
    """
    checking = _Check(options, on_version)
    checking.look_at(repositories)
    return Checked(tuple(checking.servable), tuple(checking.troubles))


class _Check:
    def __init__(self, options: LoadOptions, on_version: Callable[[str], None]) -> None:
        self._options = options
        self._on_version = on_version
        self.servable: list[Servable] = []
        self.troubles: list[Trouble] = []

    def look_at(self, repositories: Sequence[Path]) -> None:
        """Look at all the repositories at once, since a model may stand in one of them alone."""
        found = scan([repository for repository in repositories if self._is_readable(repository)])
        for name in sorted(found):
            before = len(self.troubles)
            self._model(found[name])
            self.troubles[before:] = sorted(self.troubles[before:], key=lambda one: (one.path, one.line))

    def _is_readable(self, repository: Path) -> bool:
        try:
            is_empty = not scan([repository])
        except RepositoryError as error:
            self.troubles.append(Trouble(repository, str(error)))
            return False
        entries = {entry.name for entry in repository.iterdir()}
        if CONFIG_FILE in entries or any(map(is_version, entries)):
            suggestion = f"name the folder that holds it: {repository.resolve().parent}"
            self.troubles.append(Trouble(repository, "is a model, and no repository", suggestion=suggestion))
            return False
        if is_empty:
            example = repository / "mymodel" / "1" / USUAL_FILES["onnxruntime_onnx"]
            self.troubles.append(Trouble(repository, "holds no model", suggestion=f"expected: {example}"))
        return not is_empty

    def _model(self, found: FoundModel) -> None:
        if found.problem:
            self.troubles.append(Trouble(found.folder.with_name(found.name), found.problem))
            return
        self.troubles.extend(_stray(found.folder, found.versions))
        try:
            given, problems = model_config.examine(found.folder, found.name)
        except ConfigError as error:
            self._tell(found.folder, error.problems)
            return
        self._tell(found.folder, problems)
        if any(problem.field in _DECISIVE for problem in problems):
            return
        for number in given.version_policy.chosen(found.versions):
            self._version(found, number, given, is_faultless=not problems)

    def _version(self, found: FoundModel, number: int, given: GivenConfig, *, is_faultless: bool) -> None:
        """Load a version; one whose configuration has faults only to find the others."""
        self._on_version(f"{found.name} version {number}")
        folder = found.versions[number].folder
        try:
            servable = self._servable(found.name, number, folder, given, is_faultless=is_faultless)
            self.servable += [servable] if is_faultless else []
        except ConfigError as error:
            self._tell(found.folder, error.problems)
            self.troubles += _damage(folder)
        except Exception as error:  # whatever a library makes of a broken file must not end the check
            _logger.debug("%s: %s", folder, error, exc_info=True)
            text = str(error) or type(error).__name__
            self.troubles.append(Trouble(folder, text))
            self.troubles += [one for one in _damage(folder) if one.text not in text]
        else:
            self.troubles += _damage(folder)

    def _servable(
        self, name: str, number: int, folder: Path, given: GivenConfig, *, is_faultless: bool
    ) -> Servable:
        loaded = load_declared(
            folder,
            given,
            max_batch_size=self._options.max_batch_size,
            allow_python=self._options.allow_python,
            machine=self._options.machine,
            replanner=self._options.replanner,
        )
        engine = loaded.engine
        try:
            given = settle(given, engine)
            warm_up(engine, given.warmups if is_faultless else (), given.settings.sequences)
            return Servable(
                name,
                str(number),
                loaded.artefact,
                engine.platform,
                engine.spec,
                sum(loaded.counts),
                loaded.held.host_bytes,
                loaded.held.gpu_bytes,
                loaded.why,
            )
        finally:
            loaded.close()

    def _tell(self, folder: Path, problems: Iterable[Problem]) -> None:
        """Note what was not told of the same fields: each version of a model would find it again."""
        path = folder / CONFIG_FILE
        told = {trouble.field for trouble in self.troubles if trouble.path == path}
        for problem in problems:
            if not _is_among(problem.field, told):
                self.troubles.append(
                    Trouble(path, problem.text, problem.line, problem.field, problem.suggestion)
                )


def _damage(folder: Path) -> Iterator[Trouble]:
    """Yield the files of a version that are not as they were built: on another machine they may be chosen."""
    try:
        described = manifest.read(folder)
    except ModelFileError:
        return  # it was not loaded either
    if described is None:
        return
    for name, error in manifest.damage(folder, described):
        yield Trouble(folder / name, str(error).removeprefix(f"{name}: "))
    if why := standing.no_report(folder, described):
        text = f"what was made for the CPU is not served: {why}"
        yield Trouble(folder / report.FILE_NAME, text, suggestion="build it anew, or copy the version whole")


def _is_among(field: str, told: Collection[str]) -> bool:
    """Whether the field, or one in it that may be the cause, is among those that were told of."""
    within = (f"{field}.", f"{field}[")
    return any(other == field or (other.startswith(within) and not other.endswith(_APART)) for other in told)


def _stray(folder: Path, versions: Collection[int]) -> Iterator[Trouble]:
    """Yield what lies in a model's folder under a name, or in a place, that is not looked at."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        near = did_you_mean(entry.name, _NAMES_IN_A_MODEL)
        if near and entry.name not in _NAMES_IN_A_MODEL:
            yield Trouble(entry, "is not read", suggestion=near)
        elif is_number(entry.name) and not is_version(entry.name) and entry.is_dir():
            yield Trouble(entry, "is not read", suggestion=f"the highest version is {HIGHEST_VERSION}")
    if versions:
        return
    numbered = [entry.name for entry in entries if entry.is_dir() and is_version(entry.name.lstrip("vV0"))]
    models = [entry.name for entry in entries if entry.name in USUAL_FILES.values()]
    suggestion = "a folder named 1, 2, … is expected"
    if numbered:
        suggestion = f"rename {numbered[0]} to {numbered[0].lstrip('vV0')}"
    elif models:
        suggestion = f"move {models[0]} into {folder / '1'}"
    yield Trouble(folder, "has no version", suggestion=suggestion)
