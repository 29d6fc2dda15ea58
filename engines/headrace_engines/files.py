"""Files of a version folder, looked at before they are opened: a pipe would be waited for without end.

Complaints name a file without its folder, because they reach clients, who need not know where a
server keeps its models.
"""

from __future__ import annotations

import stat
from pathlib import Path

from headrace_engines.errors import ModelFileError


def check(path: Path) -> None:
    """Raise ModelFileError unless the path leads to a regular file that may be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"{path.name}: not a regular file")
        path.open("rb").close()
    except FileNotFoundError as error:
        raise ModelFileError(f"{path.name}: no such file") from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> ModelFileError:
    """Return the complaint about a file that the system does not let be read, to be raised."""
    return ModelFileError(f"{path.name}: cannot be read: {(error.strerror or str(error)).lower()}")
