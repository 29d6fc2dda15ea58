"""The process in which a source is opened: `python -m headrace_engines.importers.child PARENT`.

It gives up the network before it opens anything. It is asked over its standard input and answers over
its standard output, both of which are taken away before anything else runs: frameworks print as they
like, into the log. It stays for every question, so that a framework is loaded once.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from headrace_engines import disk_space, local_modules
from headrace_engines.errors import EngineError, FolderError, ModelFileError, UnsupportedModelError
from headrace_engines.importers import messages, sandbox
from headrace_engines.importers.importer import Importer, ImportOptions, WritesPmml, standard_path
from headrace_engines.importers.missing import missing


def main() -> None:
    """Answer until the parent closes its end."""
    sandbox.be_killed_first()
    network = sandbox.leave_network()
    sandbox.end_with(int(sys.argv[1]))
    with messages.standard_streams() as (questions, answers):
        _serve(questions, answers, _Opened(network))


class _Opened:
    """One source, once it is opened; each method answers one kind of question."""

    def __init__(self, network: str) -> None:
        self._network = network

    def answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do what is asked."""
        match question["do"]:
            case "open":
                return self._open(question)
            case "convert":
                return self._convert(Path(question["into"]))
            case "write_pmml":
                return self._write_pmml(Path(question["into"]))
            case "answers":
                return self._answers(question)
            case "tell_modules":
                return {"modules": local_modules.imported()}
            case unknown:
                raise ValueError(f"asked to {unknown!r}")

    def _open(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        self._options = options = ImportOptions(
            factory=question["factory"],
            input_shapes={name: tuple(dims) for name, dims in question["input_shapes"].items()},
            input_dtypes=question["input_dtypes"],
            opset=question["opset"],
            is_trusted=question["is_trusted"],
        )
        if options.is_trusted or options.factory:
            sys.path.append(str(Path.cwd()))  # code that a pickle or a factory names; last, to hide nothing
            sys.dont_write_bytecode = True  # in a person's folders
        module = importlib.import_module(question["module"])
        self._importer: Importer = module.open_source(Path(question["path"]), options)
        return {"facts": dict(self._importer.facts), "network": self._network}

    def _convert(self, into: Path) -> Mapping[str, Any]:
        from headrace_engines.importers import checks  # libraries that a refusal does without

        self._importer.convert(into)
        for model in (into, standard_path(into)):
            if model.exists():
                checks.finish(model, self._options.opset)
        return {}

    def _write_pmml(self, into: Path) -> Mapping[str, Any]:
        if not isinstance(self._importer, WritesPmml):
            raise UnsupportedModelError(
                f"{self._importer.facts.get('class', 'the model')} has no form in PMML that is written here: "
                "only estimators of scikit-learn have; export it as .onnx"
            )
        self._importer.write_pmml(into)
        return {}

    def _answers(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        rows = messages.read_arrays(Path(question["rows"]), question["described"])
        named = {str(position): array for position, array in enumerate(self._importer.answers(rows))}
        return {"described": messages.write_arrays(Path(question["into"]), named)}


def _serve(questions: IO[bytes], answers: IO[bytes], opened: _Opened) -> None:
    while True:
        try:
            question = messages.receive(questions)
        except EOFError:
            return
        try:
            answer = opened.answer(question)
        except EngineError as error:
            answer = _failure(type(error).__name__, str(error))
        except ModuleNotFoundError as error:
            _log()
            answer = _failure(UnsupportedModelError.__name__, str(missing(error)))
        except MemoryError:
            answer = _failure(ModelFileError.__name__, "there is not enough memory for this model")
        except Exception as error:  # whatever a framework says of a file; raised again where it was asked for
            answer = _no_space(error, question) or _failure("", _first_line(error))
            _log()
        messages.send(answers, answer)


def _log() -> None:
    """Write the exception that is being handled to the log, which may lie on a disk that is full."""
    with suppress(OSError):
        traceback.print_exc()


def _no_space(error: Exception, question: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the answer if it was a full disk that is to blame, and not the source; else None."""
    if not disk_space.is_full(error):
        return None
    written = Path(question["into"]).parent if "into" in question else Path(tempfile.gettempdir())
    return _failure(FolderError.__name__, disk_space.complaint(written))


def _failure(kind: str, text: str) -> Mapping[str, Any]:
    return {"error": kind, "text": text}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


if __name__ == "__main__":
    main()
