"""Which file of a version folder serves on this machine, and why.

Candidates are tried best first: where there are GPUs a plan that fits them, then ONNX Runtime there; else
what `headrace build` compressed for the CPU and found as good and faster, then the model as it was trained.
One that is damaged, does not match its manifest, or whose rows would change each other's answers gives way
to the next; a version none of whose artefacts keeps rows apart is served one row at a time. What a person
declared about the model is checked against the file, and may name the file. A program (`model.py`) is
executed only where that is allowed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace_engines import independence, manifest, memory, report, standing
from headrace_engines.candidates import (
    MODEL,
    PLAN,
    Candidate,
    Runner,
    is_plan,
    on_cpu,
    on_gpu,
    program,
    ruled_out,
)
from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.engine import Engine
from headrace_engines.errors import (
    DeclarationError,
    Difference,
    EngineError,
    EngineSpoilt,
    ModelFileError,
    UnsupportedModelError,
)
from headrace_engines.independence import Independence
from headrace_engines.machine import THIS_MACHINE, Machine
from headrace_engines.manifest import Manifest
from headrace_engines.memory import Held
from headrace_engines.opening import Opener
from headrace_engines.placement import ANYWHERE, Kind, Placement, Places
from headrace_engines.printable import printable
from headrace_engines.replacements import Replacements
from headrace_engines.standing import CPU_TARGET, Standing
from headrace_engines.steps import StepEngine

if TYPE_CHECKING:
    from headrace_engines.plan_order import PlanOrder
    from headrace_engines.rebuilt_plans import RebuiltPlans

_log = logging.getLogger(__name__)

_NO_ROWS: Final = "write `max_batch_size: 0` where axis 0 does not count rows"
_PAGES: Final = (".html", ".png")
_LONE: Final = "its scales are of the moment, so that rows would change each other"
_CPU_ALONE: Final = Placement(Kind.CPU)
_ON_CPU: Final = (0,)
"""Where the CPU's engine is opened: once."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine ready to serve, the name of the file it runs, and a line for each candidate.

    `held` is the memory that all its instances take.
    `further` are engines of the same file on further GPUs, and `counts` says how many instances there are to
    be of `engine` and of each of them. `rebuilds` are plans that would serve better and can be built here,
    best first.
    """

    engine: Engine | StepEngine
    artefact: str
    why: tuple[str, ...]
    held: Held = Held()
    why_alone: str = ""
    """What happens to rows in a batch, for which they are executed one at a time; "" where they are not."""
    further: tuple[Engine, ...] = ()
    counts: tuple[int, ...] = (1,)
    rebuilds: tuple[PlanOrder, ...] = ()

    @property
    def engines(self) -> tuple[Engine | StepEngine, ...]:
        """All engines, each of which `counts` tells the number of instances of."""
        return (self.engine, *self.further)

    @property
    def places(self) -> tuple[tuple[int | None, int], ...]:
        """The GPU of each engine, None for the CPU, and how many instances there are to be of it."""
        return tuple(zip(map(_gpu_of, self.engines), self.counts, strict=True))

    def close(self) -> None:
        """Close all engines."""
        for engine in self.engines:
            engine.close()


def load(
    folder: Path,
    *,
    max_batch_size: int = 64,
    declaration: Declaration = NOTHING_DECLARED,
    allow_python: bool = False,
    placement: Placement = ANYWHERE,
    machine: Machine = THIS_MACHINE,
    rebuilt: RebuiltPlans | None = None,
) -> Loaded:
    """Load the best artefact that this machine can run, as it was declared.

    `max_batch_size` stands where none was declared. `rebuilt` are the plans that this machine has built
    itself. Takes as long as reading the file and some thirty executions of small batches; a program takes as
    long as it likes. Raises ModelFileError saying what was found and what was expected if nothing can be
    served, DeclarationError where that is because the model, or the machine, is not what was declared,
    UnsupportedModelError for a program that may not be executed and a plan where there is no GPU.
    """
    rows = declaration.max_batch_size or max_batch_size
    if file := program(folder, declaration):
        if not allow_python:
            raise UnsupportedModelError(f"{file}: Python models are executed only with --allow-python-models")
        return _loaded_program(folder, file, rows, declaration, placement)
    if declaration.is_decoupled:
        text = "only a Python model answers a request other than once"
        raise DeclarationError([Difference("model_transaction_policy.decoupled", text)])
    try:
        places = Places.of(placement, machine)
    except DeclarationError as missing:
        if is_plan(declaration):
            raise
        raise DeclarationError([*missing.differences, *_further(folder, rows, declaration)]) from missing
    if is_plan(declaration) and places.why_no_gpu:
        raise UnsupportedModelError(f"{declaration.file or PLAN}: needs a GPU: {places.why_no_gpu}")
    described = manifest.read(folder)
    opener = Opener(described, declaration, machine)
    version = _Version(folder, opener, places, Replacements(folder, described, machine, rebuilt))
    chosen = version.first_that_batches(rows) or version.first_alone()
    if chosen is None:
        raise version.failure()
    version.warn(chosen)
    return chosen


def _further(folder: Path, rows: int, declaration: Declaration) -> tuple[Difference, ...]:
    """Return what else is not as declared where a GPU is missing, so that all is told at once."""
    try:
        load(folder, max_batch_size=rows, declaration=declaration, placement=_CPU_ALONE).close()
    except DeclarationError as error:
        return error.differences
    return ()


def _loaded_program(
    folder: Path, file: str, rows: int, declaration: Declaration, placement: Placement
) -> Loaded:
    from headrace_engines.runtime.python import PythonEngine  # most servers execute no programs

    engine = PythonEngine(folder / file, declaration, max_batch_size=rows, version=folder.name)
    held = Held(memory.files_bytes(folder, ()))
    return Loaded(engine, file, (f"{file}: chosen: a program",), held, counts=(placement.on_cpu,))


class _Version:
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
        self._against |= _unused(opener.manifest, self._candidates, self._against)
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
        found = "; ".join(f"{file}: {reason}" for file, reason in (self._against | self._refused).items())
        if self._refused:
            return found
        if not self._folder.is_dir():
            found = "the version's folder is gone, or a link that leads nowhere"
        elif not found:
            names = sorted(printable(entry.name) for entry in self._folder.iterdir())
            found = f"found {', '.join(names) or 'no files'}"
        return f"{found}; expected {self._declaration.file or MODEL}"

    def warn(self, chosen: Loaded) -> None:
        """Log what should have served and does not; a version that does not serve at all is an error."""
        label, _, merit = chosen.why[0].partition(": chosen: ")
        for file, reason in self._refused.items():
            if file != label:
                _log.warning("%s is not served: %s", self._folder / file, reason)
            else:
                _log.warning("%s is %s", self._folder / file, merit)

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
        """Return an engine for each place where the candidate runs. Raises EngineError, and leaves none."""
        engines: list[Engine] = []
        try:
            for gpu in _ON_CPU if candidate.runner is Runner.CPU else self._places.gpus:
                engines.append(self._opener.open(candidate, gpu, max_batch_size))  # noqa: PERF401  closed below
        except EngineError:
            _close(engines)
            raise
        return engines

    def _dependence(self, candidate: Candidate, engines: list[Engine]) -> str | None:
        """Return how rows change each other, "" if they do not, None if that could not be found out.

        The engines are closed where they do not serve.
        """
        why: str | None = ""
        try:
            findings = [_independence(engine) for engine in engines]
            why = next((finding.why for finding in findings if not finding.independent), "")
        except EngineError as error:
            self._refuse(candidate, error)
            why = None
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
        refused = {file: f"NOT SERVED: {reason}" for file, reason in self._refused.items()}
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
                *(f"{file}: {told}" for file, told in against.items() if file != label),
            ),
            held,
            further=tuple(engines[1:]),
            counts=counts,
            rebuilds=tuple(self._replacements.orders),
        )

    def _weights_bytes(self, chosen: Candidate) -> int:
        """Return the bytes of the files with weights, which may be any that is no other candidate."""
        if chosen.runner is Runner.TENSORRT:
            return chosen.path.stat().st_size
        others = {candidate.file for candidate in self._candidates} - {chosen.file}
        pages = {entry.name for entry in self._folder.iterdir() if entry.suffix in _PAGES}
        without = {*others, *self._against, *pages, manifest.FILE_NAME, report.FILE_NAME}
        return memory.files_bytes(self._folder, without - {chosen.file})


def _independence(engine: Engine) -> Independence:
    """Find out whether rows can share a batch, once more where the GPU was spoilt meanwhile.

    That may be the fault of any model that is executed there.
    """
    try:
        return independence.check(engine)
    except EngineSpoilt:
        if engine.device is None:
            raise
        engine.device.renew()
        return independence.check(engine)


def _unused(
    described: Manifest | None, candidates: Sequence[Candidate], against: Mapping[str, str]
) -> dict[str, str]:
    """Return the artefacts that are good, and that nothing here executes as they are, with the reason."""
    known = {candidate.file for candidate in candidates} | against.keys()
    reasons = {CPU_TARGET: "made for the CPU: the configuration says KIND_GPU"}
    return {
        artefact.file: reasons.get(artefact.target, "what a plan is built of")
        for artefact in (described.artefacts if described else ())
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


def _gpu_of(engine: Engine | StepEngine) -> int | None:
    device = None if isinstance(engine, StepEngine) else engine.device
    return None if device is None else device.gpu


def _close(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.close()
