"""Chooses among the candidates of one version: opens them, the best first, until one serves.

One that is damaged, does not match its manifest, or whose rows would change each other's answers gives way
to the next; what became of each is told with the one that was chosen.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from headrace_engines import independence, manifest, memory, report, standing
from headrace_engines.candidates import (
    MODEL,
    Candidate,
    Runner,
    on_cpu,
    on_gpu,
    ruled_out,
    untold,
    why_unused,
)
from headrace_engines.declaration import Declaration
from headrace_engines.engine import Engine
from headrace_engines.errors import DeclarationError, Difference, EngineError, ModelFileError
from headrace_engines.loaded import Loaded
from headrace_engines.manifest import Manifest
from headrace_engines.opening import Opener
from headrace_engines.placement import Places
from headrace_engines.printable import printable
from headrace_engines.renewal import with_renewal
from headrace_engines.replacements import Replacements
from headrace_engines.standing import Standing

_log = logging.getLogger(__name__)

_NO_ROWS: Final = "write `max_batch_size: 0` where axis 0 does not count rows"
_NOT_SERVED: Final = "NOT SERVED: "
_PAGES: Final = (".html", ".png")
_LONE: Final = "its scales are of the moment, so that rows would change each other"
_ON_CPU: Final = (0,)
"""Where the CPU's engine is opened: once."""


class Choice:
    """A version folder, and what was found out so far about the files in it."""

    def __init__(self, folder: Path, opener: Opener, places: Places, replacements: Replacements) -> None:
        self._folder = folder
        self._opener = opener
        self._declaration = opener.declaration
        self._places = places
        self._replacements = replacements
        known = standing.read(folder, opener.manifest) if opener.manifest else ()
        self._candidates = _candidates(folder, opener.manifest, known, opener.declaration, places)
        self._against = dict(ruled_out(folder, opener.manifest, known, places.why_no_gpu))
        if not (opener.manifest or opener.declaration.file):
            self._against |= dict.fromkeys(
                untold(folder), f"passed over: no {manifest.FILE_NAME} tells of it"
            )
        self._against |= _unused(opener, self._candidates, self._against, serves_on_cpu=bool(places.on_cpu))
        self._refused: dict[str, str] = {}
        self._differences: tuple[Difference, ...] = ()
        self._dependent: list[tuple[Candidate, str]] = []

    def first_that_batches(self, max_batch_size: int) -> Loaded | None:
        """Return the first candidate that is whole and keeps its rows apart."""
        for position, first in enumerate(self._candidates):
            if 0 < first.most_rows < max_batch_size:
                self._against[first.label] = _LONE
                self._dependent.append((first, _LONE))
                continue
            candidate, engines = self._opened(first, max_batch_size)
            if not engines or (why := self._dependence(candidate, engines)) is None:
                continue
            if not why:
                rest = [other.file for other in self._candidates[position + 1 :] if other.file != first.file]
                self._against |= dict.fromkeys(rest, f"not needed: {candidate.label} comes first")
                return self._chosen(engines, candidate, candidate.merit)
            self._refused[candidate.label] = f"the rows of a batch would change each other: {why}"
            self._dependent.append((candidate, why))
        return None

    def first_alone(self) -> Loaded | None:
        """Return the best candidate that is whole, to be served one row at a time.

        Raises DeclarationError where batches were declared: a setting that is not honoured must not pass.
        """
        for candidate, why in self._dependent:
            if (most := self._declaration.max_batch_size or 0) > 1:
                text = (
                    f"the configuration says {most}, and rows cannot share a batch of {candidate.file}: "
                    f"{why}; {_NO_ROWS}, or leave the field out, and rows are executed one at a time"
                )
                raise DeclarationError([Difference("max_batch_size", text)])
            opened, engines = self._opened(candidate, 1)
            if engines:
                merit = f"served one row at a time: in a batch {why}; {_NO_ROWS}"
                return replace(self._chosen(engines, opened, merit), why_alone=why)
        return None

    def failure(self) -> ModelFileError:
        """Return an error that tells why nothing can be served."""
        text = self._findings()
        if self._declaration.file and not self._candidates:
            return DeclarationError([Difference("default_model_filename", text)], text)
        return DeclarationError(self._differences, text) if self._differences else ModelFileError(text)

    def _findings(self) -> str:
        """Say what is wrong with each file; if there is none that could serve, what was expected."""
        found = "; ".join(self._lines(self._against | self._refused))
        if self._refused:
            return found
        if not self._folder.is_dir():
            found = "the version's folder is gone, or a link that leads nowhere"
        elif not found:
            names = sorted(printable(entry.name) for entry in self._folder.iterdir())
            found = f"found {', '.join(names) or 'no files'}"
        usual = MODEL
        if self._opener.manifest is None and untold(self._folder):
            usual = f"the {manifest.FILE_NAME} that belongs to them, or {MODEL}"
        return f"{found}; expected {self._declaration.file or usual}"

    def _lines(self, told: Mapping[str, str]) -> list[str]:
        """Return a line for each file; one for all with the same refusal, or want of a GPU."""
        why = self._places.why_no_gpu
        files: dict[tuple[str, str], list[str]] = {}
        for file, reason in told.items():
            is_shared = reason.startswith(_NOT_SERVED) or (why and reason.endswith(why))
            files.setdefault(("" if is_shared else file, reason), []).append(file)
        return [f"{', '.join(names)}: {reason}" for (_, reason), names in files.items()]

    def warn(self, chosen: Loaded) -> Loaded:
        """Log what should have served and does not; a version that does not serve at all is an error."""
        self._warn_of_no_gpu()
        label, _, merit = chosen.why[0].partition(": chosen: ")
        refused = {file: reason for file, reason in self._refused.items() if file != label}
        if len(refused) < len(self._refused):
            _log.warning("%s is %s", self._folder / label, merit)
        for reason in dict.fromkeys(refused.values()):
            names = ", ".join(file for file, other in refused.items() if other == reason)
            _log.warning("%s is not served: %s", self._folder / names, reason)
        warned = self._lines({file: f"{_NOT_SERVED}{reason}" for file, reason in refused.items()})
        return replace(chosen, warned=tuple(warned))

    def _warn_of_no_gpu(self) -> None:
        """Log that the machine keeps from GPUs what was made for them, or was to run on certain ones."""
        places, machine = self._places, self._opener.machine
        if not places.was_wished:
            return
        if places.names_gpus:
            _log.warning("%s is served on the CPU: %s", self._folder, places.why_no_gpu)
            return
        found = on_gpu(self._folder, self._opener.manifest, self._declaration)
        has_files = any(one.is_for_gpus or machine.has_provider() for one in found)
        if has_files and machine.is_news(places.why_no_gpu):
            text = "%s has files for a GPU, and is served on the CPU, as are all models: %s"
            _log.warning(text, self._folder, places.why_no_gpu)

    def _opened(self, candidate: Candidate, max_batch_size: int) -> tuple[Candidate, list[Engine]]:
        """Return engines of the candidate, or of what stands in for it; none if it is refused."""
        try:
            return candidate, self._engines(candidate, max_batch_size)
        except EngineError as error:
            other = self._replacements.instead_of(candidate, self._places.gpus, error)
            if not isinstance(other, Candidate):
                self._refuse(candidate, error, other)
                return candidate, []
        self._against[candidate.label] = f"stands for another machine: {other.label} comes first"
        try:
            return other, self._engines(other, max_batch_size)
        except EngineError as error:
            self._refuse(other, error)
            return other, []

    def _engines(self, candidate: Candidate, max_batch_size: int) -> list[Engine]:
        """Return an engine for each place where the candidate runs; leaves none if any fails."""
        engines: list[Engine] = []
        try:
            for gpu in _ON_CPU if candidate.runner is Runner.CPU else self._places.gpus:
                engines.append(self._opener.open(candidate, gpu, max_batch_size))  # noqa: PERF401  closed below
        except BaseException:
            _close(engines)
            raise
        return engines

    def _dependence(self, candidate: Candidate, engines: list[Engine]) -> str | None:
        """Return how rows change each other, "" if they do not, None if that could not be found out.

        The engines are closed where they do not serve.
        """
        why: str | None = ""
        try:
            findings = [
                with_renewal(engine.device, functools.partial(independence.check, engine))
                for engine in engines
            ]
            why = next((finding.why for finding in findings if not finding.independent), "")
        except EngineError as error:
            self._refuse(candidate, error)
            why = None
        except BaseException:
            _close(engines)
            raise
        if why != "":
            _close(engines)
        return why

    def _refuse(self, candidate: Candidate, error: EngineError, more: str = "") -> None:
        # What comes from below names the file itself.
        reason = str(error).removeprefix(f"{candidate.file}: ")
        self._refused[candidate.label] = f"{reason}; {more}" if more else reason
        if isinstance(error, DeclarationError):
            self._differences = self._differences or error.differences

    def _chosen(self, engines: list[Engine], candidate: Candidate, merit: str) -> Loaded:
        label = candidate.label
        refused = {file: f"{_NOT_SERVED}{reason}" for file, reason in self._refused.items()}
        against = self._against | refused
        runner = candidate.runner
        counts = (self._places.on_cpu,) if runner is Runner.CPU else self._places.counts
        held = memory.held(
            [engine.slots * memory.staging_bytes(engine.spec) for engine in engines],
            counts,
            [(engine.device.gpu, engine.device.memory_bytes) for engine in engines if engine.device],
            self._weights_bytes(candidate),
            shares_weights=runner is not Runner.CUDA,
        )
        return Loaded(
            engines[0],
            candidate.file,
            (
                f"{label}: chosen: {merit}",
                *self._lines({file: told for file, told in against.items() if file != label}),
            ),
            held,
            further=tuple(engines[1:]),
            counts=counts,
            rebuilds=tuple(self._replacements.orders),
            is_rebuilt=candidate.is_rebuilt,
        )

    def _weights_bytes(self, chosen: Candidate) -> int:
        """Return the bytes of the files with weights, which may be any that is no other candidate."""
        if chosen.runner is Runner.TENSORRT:
            return chosen.path.stat().st_size
        others = {candidate.file for candidate in self._candidates} - {chosen.file}
        pages = {entry.name for entry in self._folder.iterdir() if entry.suffix in _PAGES}
        without = {*others, *self._against, *pages, manifest.FILE_NAME, report.FILE_NAME}
        return memory.files_bytes(self._folder, without - {chosen.file})


def _unused(
    opener: Opener, candidates: Sequence[Candidate], against: Mapping[str, str], *, serves_on_cpu: bool
) -> dict[str, str]:
    """Return the artefacts that are good, and that nothing here executes as they are, with the reason."""
    known = {candidate.file for candidate in candidates} | against.keys()
    return {
        artefact.file: why_unused(artefact, opener.declaration, serves_on_cpu=serves_on_cpu)
        for artefact in (opener.manifest.artefacts if opener.manifest else ())
        if artefact.file not in known
    }


def _candidates(
    folder: Path,
    described: Manifest | None,
    known: Sequence[Standing],
    declaration: Declaration,
    places: Places,
) -> list[Candidate]:
    found = on_gpu(folder, described, declaration) if places.gpus else []
    return found + (on_cpu(folder, described, known, declaration) if places.on_cpu else [])


def _close(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.close()
