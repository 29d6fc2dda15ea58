"""Files of a model that a caller sent along: they are served from a folder of their own."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from headrace_server.errors import InferenceError, InvalidInput, NotSupported, Overloaded
from headrace_server.models.layout import is_version
from headrace_server.models.scratch import ScratchFolder

_CALLERS_FAULTS: Final = frozenset(
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
)
"""What names can do to each other; whatever else goes wrong in writing is the machine's."""
_RETRY_SECONDS: Final = 60.0
_PROGRAM: Final = ".py"
_MOST_FILES: Final = 256
_MOST_DEPTH: Final = 16
_MOST_PATH_CHARACTERS: Final = 1024


class Upload:
    """A temporary folder with the files of one model; it goes when the last version that needs it has."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """`files` are contents by path in the model's folder, such as "1/model.onnx".

        Raises InvalidInput for a path that leads out of the folder or nowhere, NotSupported for a program,
        Overloaded where the machine cannot keep them.
        """
        paths = {_checked(path): content for path, content in files.items()}
        if len(paths) != len(files) or len(files) > _MOST_FILES:
            raise InvalidInput(
                f"{len(files)} files came; at most {_MOST_FILES} with different paths are taken"
            )
        try:
            self._scratch = ScratchFolder()
        except OSError as error:
            raise _unwritten(error) from error
        self.folder = self._scratch.path
        try:
            _write(self.folder, paths)
        except OSError as error:
            self.remove()
            raise _unwritten(error) from error

    def remove(self) -> None:
        """Remove the folder now."""
        self._scratch.remove()


def _unwritten(error: OSError) -> InferenceError:
    """Return what to tell a caller whose files could not be written."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in _CALLERS_FAULTS:
        return InvalidInput(f"the files cannot stand beside each other: {reason}")
    place = tempfile.tempdir or "a folder of temporary files"
    return Overloaded(f"the server cannot keep the model's files in {place}: {reason}", _RETRY_SECONDS)


def _checked(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    parts = path.parts
    if len(text) > _MOST_PATH_CHARACTERS or len(parts) > _MOST_DEPTH:
        raise InvalidInput(f"the file path {text[:64]!r}… is too long")
    if path.is_absolute() or ".." in parts or "\\" in text or "\0" in text or len(parts) < 1:
        raise InvalidInput(
            f"the file path {text!r} came; one inside of the model's folder is expected, such as 1/model.onnx"
        )
    if len(parts) > 1 and not is_version(parts[0]):
        raise InvalidInput(
            f"the file path {text!r} came; VERSION/FILE is expected, where VERSION is a whole number from 1"
        )
    if path.suffix == _PROGRAM:
        raise NotSupported(f"{text!r}: programs are taken from the repository alone, and not from callers")
    return path


def _write(folder: Path, contents: Mapping[PurePosixPath, bytes]) -> None:
    for path, content in contents.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
