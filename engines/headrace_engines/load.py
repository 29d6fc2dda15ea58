"""Which file of a version folder serves on this machine, and why.

Candidates are tried best first: what `headrace build` compressed for this kind of machine and found
good enough, then the model as it was trained. One that is damaged, does not match its manifest, or
whose rows would change each other's answers gives way to the next; a version none of whose
artefacts keeps rows apart is served one row at a time. What a person declared about the model is
checked against the file, and may name the file. A program (`model.py`) is executed only where that is
allowed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace_engines import independence, manifest, memory, report
from headrace_engines.agreement import check_answers
from headrace_engines.candidates import (
    MODEL,
    NOT_SERVED,
    PLAN,
    TENSORRT,
    Candidate,
    best_first,
    program,
    ruled_out,
)  # fmt: skip
from headrace_engines.declaration import NOTHING_DECLARED, Declaration
from headrace_engines.engine import Engine
from headrace_engines.errors import (
    DeclarationError,
    Difference,
    EngineError,
    ModelFileError,
    UnsupportedModelError,
)
from headrace_engines.manifest import Manifest
from headrace_engines.printable import printable
from headrace_engines.reshaping import ReshapingEngine, reshapes
from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_engines.steps import StepEngine

if TYPE_CHECKING:
    from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_log = logging.getLogger(__name__)

_NO_ROWS: Final = "write `max_batch_size: 0` where axis 0 does not count rows"
_PAGES: Final = (".html", ".png")
_LONE: Final = "its scales are of the moment, so that rows would change each other"


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine ready to serve, the name of the file it runs, and a line for each candidate.

    `memory_bytes` is what the model's files and the engine's staging buffers take.
    """

    engine: Engine | StepEngine
    artefact: str
    why: tuple[str, ...]
    memory_bytes: int = 0
    why_alone: str = ""
    """What happens to rows in a batch, for which they are executed one at a time; "" where they are not."""


def load(
    folder: Path,
    *,
    max_batch_size: int = 64,
    declaration: Declaration = NOTHING_DECLARED,
    allow_python: bool = False,
) -> Loaded:
    """Load the best artefact that this machine can run, as it was declared.

    `max_batch_size` stands where none was declared. Takes as long as reading the file and some thirty
    executions of small batches; a program takes as long as it likes. Raises ModelFileError saying what
    was found and what was expected if nothing can be served, DeclarationError where that is because the
    model is not what was declared, UnsupportedModelError for a program that may not be executed.
    """
    rows = declaration.max_batch_size or max_batch_size
    if file := program(folder, declaration):
        if not allow_python:
            raise UnsupportedModelError(f"{file}: Python models are executed only with --allow-python-models")
        return _loaded_program(folder, file, rows, declaration)
    if declaration.platform == TENSORRT:
        raise UnsupportedModelError(f"{declaration.file or PLAN}: {NOT_SERVED[PLAN]}")
    if declaration.is_decoupled:
        text = "only a Python model answers a request other than once"
        raise DeclarationError([Difference("model_transaction_policy.decoupled", text)])
    version = _Version(folder, manifest.read(folder), declaration)
    chosen = version.first_that_batches(rows) or version.first_alone()
    if chosen is None:
        raise version.failure()
    version.warn(chosen)
    return chosen


def _loaded_program(folder: Path, file: str, rows: int, declaration: Declaration) -> Loaded:
    from headrace_engines.runtime.python import PythonEngine  # most servers execute no programs

    engine = PythonEngine(folder / file, declaration, max_batch_size=rows, version=folder.name)
    return Loaded(engine, file, (f"{file}: chosen: a program",), memory.files_bytes(folder, ()))


class _Version:
    """A version folder, and what was found out so far about the files in it."""

    def __init__(self, folder: Path, described: Manifest | None, declaration: Declaration) -> None:
        self._folder = folder
        self._manifest = described
        self._declaration = declaration
        self._candidates = best_first(folder, described, declaration.file)
        self._against = dict(ruled_out(folder, described))
        self._refused: dict[str, str] = {}
        self._differences: tuple[Difference, ...] = ()
        self._dependent: list[tuple[Candidate, str]] = []

    def first_that_batches(self, max_batch_size: int) -> Loaded | None:
        """Return the first candidate that is whole and keeps its rows apart."""
        for position, candidate in enumerate(self._candidates):
            if 0 < candidate.most_rows < max_batch_size:
                self._against[candidate.file] = _LONE
                self._dependent.append((candidate, _LONE))
                continue
            engine = self._opened(candidate, max_batch_size)
            if engine is None:
                continue
            finding = independence.check(engine)
            if finding.independent:
                rest = self._candidates[position + 1 :]
                self._against |= {other.file: f"not needed: {candidate.file} comes first" for other in rest}
                return self._chosen(engine, candidate, candidate.merit)
            engine.close()
            self._refused[candidate.file] = f"the rows of a batch would change each other: {finding.why}"
            self._dependent.append((candidate, finding.why))
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
            engine = self._opened(candidate, 1)
            if engine is not None:
                merit = f"served one row at a time: in a batch {why}; {_NO_ROWS}"
                return replace(self._chosen(engine, candidate, merit), why_alone=why)
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
        for file, reason in self._refused.items():
            if file != chosen.artefact:
                _log.warning("%s is not served: %s", self._folder / file, reason)
            else:
                _log.warning("%s is %s", self._folder / file, chosen.why[0].partition(": chosen: ")[2])

    def _opened(self, candidate: Candidate, max_batch_size: int) -> Engine | None:
        try:
            if candidate.described and self._manifest:
                manifest.verify(self._folder, candidate.described)
                manifest.verify_weights(self._folder, self._manifest)
            engine = _onnx_engine(self._folder / candidate.file, max_batch_size, self._declaration)
        except (ModelFileError, UnsupportedModelError) as error:
            self._refuse(candidate, error)
            return None
        try:
            if candidate.described and self._manifest:
                _check_spec(engine.found, self._manifest, candidate.file)
            check_answers(engine, self._declaration)
            memory.check_staging(engine.spec)
        except ModelFileError as error:
            engine.close()
            self._refuse(candidate, error)
            return None
        return ReshapingEngine(engine, self._declaration) if reshapes(self._declaration) else engine

    def _refuse(self, candidate: Candidate, error: EngineError) -> None:
        # What comes from below names the file itself.
        self._refused[candidate.file] = str(error).removeprefix(f"{candidate.file}: ")
        if isinstance(error, DeclarationError):
            self._differences = self._differences or error.differences

    def _chosen(self, engine: Engine, candidate: Candidate, merit: str) -> Loaded:
        refused = {file: f"NOT SERVED: {reason}" for file, reason in self._refused.items()}
        against = self._against | refused
        others = [f"{file}: {reason}" for file, reason in against.items() if file != candidate.file]
        why = (f"{candidate.file}: chosen: {merit}", *others)
        return Loaded(engine, candidate.file, why, self._memory_bytes(engine, candidate))

    def _memory_bytes(self, engine: Engine, chosen: Candidate) -> int:
        """Return what the engine takes; weights may lie in any file that is no other candidate."""
        others = {candidate.file for candidate in self._candidates} - {chosen.file}
        pages = {entry.name for entry in self._folder.iterdir() if entry.suffix in _PAGES}
        without = {*others, *self._against, *pages, manifest.FILE_NAME, report.FILE_NAME}
        return memory.files_bytes(self._folder, without) + engine.slots * memory.staging_bytes(engine.spec)


def _onnx_engine(path: Path, max_batch_size: int, declaration: Declaration) -> OnnxRuntimeEngine:
    try:
        from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine  # not everybody serves on a CPU
    except ImportError as error:
        raise UnsupportedModelError(
            f"needs onnxruntime, which cannot be imported ({error}): in a clone, pip install '.[cpu]'"
        ) from error
    try:
        return OnnxRuntimeEngine(path, max_batch_size=max_batch_size, declaration=declaration)
    except MemoryError as error:
        raise ModelFileError(
            f"{path.name}: not enough memory for batches of {max_batch_size} rows"
        ) from error


def _check_spec(spec: ModelSpec, described: Manifest, file: str) -> None:
    """Raise ModelFileError unless the file has the tensors that the manifest tells of."""
    for kind, found, expected in (
        ("inputs", spec.inputs, described.inputs),
        ("outputs", spec.outputs, described.outputs),
    ):
        if len(found) != len(expected) or not all(map(_agree, found, expected)):
            raise ModelFileError(
                f"{file}: its {kind} are {_told(found)}, and {manifest.FILE_NAME} says {_told(expected)}"
            )


def _agree(found: TensorSpec, expected: TensorSpec) -> bool:
    """Whether two specs can be the same tensor; a dimension that one leaves open fits any."""
    return (found.name, found.dtype, len(found.dims)) == (
        expected.name,
        expected.dtype,
        len(expected.dims),
    ) and all(a == b or ANY in (a, b) for a, b in zip(found.dims, expected.dims, strict=True))


def _told(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.dims)}" for tensor in tensors)
