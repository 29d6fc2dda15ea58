"""The code of a model that is a program: its module, its class, and where it goes wrong."""

from __future__ import annotations

import inspect
import logging
import threading
import traceback
from pathlib import Path
from typing import Any, Final

from headrace_engines.declaration import Declaration
from headrace_engines.errors import DeclarationError, ModelFileError
from headrace_engines.python_model import Context
from headrace_engines.runtime.python_modules import forget, import_file
from headrace_engines.runtime.python_signature import is_decoupled, spec_of

_log = logging.getLogger(__name__)

_CLASS: Final = "Model"
_TRITONS_CLASS: Final = "TritonPythonModel"
_TRITONS_MODULE: Final = "triton_python_backend_utils"
_FOR_TRITON: Final = f"written for Triton's Python backend: a class {_CLASS} of its own kind is expected here"


class Program:
    """A file that was executed, and the class in it; shared by all instances, until the last has ended."""

    def __init__(self, path: Path, declaration: Declaration, most_rows: int, version: str) -> None:
        """Execute the file. Raises ModelFileError naming the file, and the line where there is one."""
        if path.suffix != ".py" or "." in path.stem or not path.is_file():
            raise ModelFileError(f"{path.name}: not there; a file with Python code, *.py, expected")
        self._path = path.absolute()  # as the import system names files in traces
        self._version = version
        self._parameters = declaration.parameters
        self._lock = threading.Lock()
        self._begun = 0
        self._running = 0
        try:
            self._module = import_file(self._path, f"{self._path.parent.parent.name}-{version}")
        except BaseException as error:  # user code: an exit, too, is a failure of the program alone
            raise self._failure(error) from error
        try:
            self._class = self._find_class()
            self.spec = spec_of(self._class, declaration, most_rows)
            self.is_decoupled = is_decoupled(self._class, declaration)
        except ModelFileError as error:
            forget(self._module)
            text = f"{path.name}: {error}"
            if isinstance(error, DeclarationError):
                raise DeclarationError(error.differences, text) from None
            raise ModelFileError(text) from None

    def begin(self) -> Any:
        """Return a new instance of the class, loaded. Raises ModelFileError where it fails to load."""
        with self._lock:
            number = self._begun
            self._begun += 1
            self._running += 1
        rows = self.spec.max_batch_size
        context = Context(self._path.parent, self._version, self._parameters, rows, number)
        try:
            instance = self._class()
            if hasattr(instance, "load"):
                instance.load(context)
        except BaseException as error:  # user code, as above
            self._leave()
            raise self._failure(error) from error
        return instance

    def end(self, instance: Any) -> None:
        """Close an instance. What it raises is logged: nobody could do anything about it."""
        try:
            if hasattr(instance, "close"):
                instance.close()
        except BaseException:  # user code, as above
            _log.exception("%s: close failed", self._path)
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                forget(self._module)

    def _find_class(self) -> type[Any]:
        chosen = vars(self._module).get(_CLASS)
        if chosen is None:
            found = [value for value in vars(self._module).values() if self._is_model(value)]
            if len(found) > 1:
                names = ", ".join(each.__name__ for each in found)
                raise ModelFileError(f"{names} have a method `execute`: name one of them {_CLASS}")
            chosen = found[0] if found else None
        if getattr(chosen, "__name__", "") == _TRITONS_CLASS:
            raise ModelFileError(_FOR_TRITON)
        execute = getattr(chosen, "execute", None)
        if not isinstance(chosen, type) or not callable(execute):
            raise ModelFileError(f"no class with a method `execute(self, batch)`: class {_CLASS} expected")
        if inspect.iscoroutinefunction(execute) or inspect.isasyncgenfunction(execute):
            raise ModelFileError(
                f"{chosen.__name__}.execute is asynchronous: a plain function or generator expected"
            )
        return chosen

    def _is_model(self, value: object) -> bool:
        return (
            isinstance(value, type)
            and value.__module__ == self._module.__name__
            and callable(getattr(value, "execute", None))
        )

    def _failure(self, error: BaseException) -> ModelFileError:
        """Say what the program failed of while it was loaded, and where in its own code.

        Files are named from their folder on, as everywhere: the text reaches clients.
        """
        _log.warning("%s: failed to load", self._path, exc_info=error)
        if isinstance(error, SyntaxError):
            file = self._within(error.filename or self._path.name)
            place = f"{file}:{error.lineno}" if error.lineno else file
            return ModelFileError(f"{place}: {type(error).__name__}: {error.msg}")
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(self._path.parent)]
        place = f"{self._within(own[-1].filename)}:{own[-1].lineno}" if own else self._path.name
        return ModelFileError(f"{place}: {type(error).__name__}: {error}{self._hint(error)}")

    def _within(self, file: str) -> str:
        """Return a file's path in the version's folder, the name alone of one elsewhere."""
        path, folder = Path(file), self._path.parent
        return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name

    def _hint(self, error: BaseException) -> str:
        if not isinstance(error, ModuleNotFoundError) or not error.name:
            return ""
        if error.name == _TRITONS_MODULE:
            return f"; {_FOR_TRITON}"
        beside = self._path.parent / error.name.partition(".")[0]
        if not beside.is_dir() and not beside.with_suffix(".py").is_file():
            return ""
        return f"; what stands beside it is imported relatively: from .{error.name} import ..."
