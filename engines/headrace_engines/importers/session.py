"""Opens a source in a process of its own, converts it there, and asks it for answers.

Some formats are programs: opening a pickle executes what its author put in it. So nothing is opened in
the caller's process: a child does it, without network rights where the system allows that, without the
caller's environment, and it is gone with the session. A framework's memory and crashes stay apart, too.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from headrace_engines import errors, folders, local_modules
from headrace_engines.documents import Scalar
from headrace_engines.errors import EngineError, ModelFileError, UntrustedSource
from headrace_engines.importers import messages, sandbox
from headrace_engines.importers.child_process import ChildEnded, ChildProcess, TookTooMuch
from headrace_engines.importers.formats import Format, Kind
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.printable import printable
from headrace_engines.rows import Rows

_logger = logging.getLogger(__name__)

_CHILD: Final = f"{__package__}.child"
_SAFER: Final = {
    Kind.SCIKIT_LEARN: "skops.io.dump",
    Kind.TORCH: "torch.save of a state_dict, or safetensors,",
    Kind.KERAS: "model.save('model.keras') without Lambda layers",
    Kind.XGBOOST: "save_model('model.json')",
    Kind.LIGHTGBM: "booster_.save_model('model.txt')",
}


@contextmanager
def import_session(
    path: Path,
    source_format: Format,
    options: ImportOptions,
    *,
    is_trusted: bool,
    within: Path | None = None,
) -> Iterator[ImportSession]:
    """Open the source; on any way out of the block its process is gone, and its temporary files are.

    They hold rows of a person's data: `within` is a locked folder, of which they are swept if this process
    is killed; without one they are where the system keeps such files.

    Raises UntrustedSource if opening can execute code and nobody allowed it, ModelFileError if the
    source is damaged, or its process died of it or went beyond its limits, MemoryExhausted if there is too
    little memory to begin, FolderError if a disk is full, UnsupportedModelError if it cannot be converted.
    """
    if source_format.runs_code and not is_trusted:
        raise UntrustedSource(_warning(path, source_format))
    with (
        tempfile.TemporaryDirectory(
            prefix=folders.UNFINISHED, dir=within, ignore_cleanup_errors=True
        ) as folder,
        sandbox.closed_to_others(),
        ChildProcess(Path(folder), _CHILD, limits=options.limits) as child,
    ):
        session = ImportSession(path, source_format, child)
        session.open(options, is_trusted=is_trusted)
        yield session


class ImportSession:
    """A source that is open in its own framework, in a process of its own."""

    def __init__(self, path: Path, source_format: Format, child: ChildProcess) -> None:
        self._path = path
        self._format = source_format
        self._child = child
        self.facts: Mapping[str, Scalar] = {}
        """What the manifest tells of the source."""
        self._began_ns = time.time_ns()

    def open(self, options: ImportOptions, *, is_trusted: bool) -> None:
        """Open the source, once."""
        question = {
            "do": "open",
            "module": self._format.module,
            "path": str(self._path.absolute()),
            "factory": options.factory,
            "input_shapes": {name: list(dims) for name, dims in options.input_shapes.items()},
            "input_dtypes": dict(options.input_dtypes),
            "opset": options.opset,
            "is_trusted": is_trusted,
        }
        answer = self._ask("opening it", question)
        if self._format.runs_code and answer["network"]:
            _logger.warning(
                "%s was opened %s",
                self._path.name,
                answer["network"],
            )
        self.facts = answer["facts"]

    def convert(self, into: Path) -> None:
        """Write the model to this file as ONNX; weights of more than 2 GB lie in files beside it."""
        self._ask("converting it", {"do": "convert", "into": str(into.absolute())})

    def write_pmml(self, into: Path) -> None:
        """Write the model to this file as PMML; UnsupportedModelError names what has no form in it."""
        self._ask("writing it as PMML", {"do": "write_pmml", "into": str(into.absolute())})

    def answers(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return what the source's own framework answers: an array per output of the ONNX, in its order."""
        came, answered = self._child.folder / "rows.npz", self._child.folder / "answers.npz"
        described = messages.write_arrays(came, rows)
        question = {"do": "answers", "rows": str(came), "described": described, "into": str(answered)}
        answer = self._ask("answering rows", question)
        return tuple(messages.read_arrays(answered, answer["described"]).values())

    def modules(self) -> dict[str, Scalar]:
        """Return what the manifest tells of a person's own modules that were imported until now."""
        told = self._ask("telling what it imported", {"do": "tell_modules"})["modules"]
        named = {str(name): str(file) for name, file in dict(told).items()}
        return local_modules.described(named, self._began_ns)

    def _ask(self, doing: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the child's answer; raises what it raised, as the same class with the same text."""
        try:
            answer = self._child.ask(question)
        except TookTooMuch as error:
            raise ModelFileError(f"{self._path.name}: {doing} was given up: {error}") from error
        except ChildEnded as error:
            raise ModelFileError(f"{self._path.name}: {doing} ended its process: {error}") from error
        if "error" not in answer:
            return answer
        text = printable(str(answer["text"]))  # its author may be the source's
        kind = vars(errors).get(str(answer["error"]))
        if isinstance(kind, type) and issubclass(kind, EngineError):
            raise kind(text)
        _logger.debug("%s: %s: %s", self._path, doing, self._child.log())
        raise ModelFileError(f"{self._path.name}: {doing} ({self._format.label}) failed: {text}")


def _warning(path: Path, source_format: Format) -> str:
    """Say what trusting the source would mean, how to do it, and what would make that needless."""
    safer = _SAFER.get(source_format.kind)
    text = (
        f"{path.name} ({source_format.label}): opening it can execute whatever its author put in it; "
        "allow that with --trust if you know where it comes from"
    )
    return f"{text} ({safer} writes a file that needs no trust)" if safer else text
