"""What TensorRT for RTX compiles for a GPU at the first execution of each shape, kept for the next start.

A file for each plan, GPU and version of library and driver. It begins with its own SHA-256, since nothing
that was cut or damaged is shown to the library.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Final

from headrace_engines.plans.nvidia import Library
from headrace_engines.runtime.cuda.driver import GpuFacts

_log = logging.getLogger(__name__)

_DIGEST_BYTES: Final = 32


def file_in(folder: Path, plan_sha256: str, library: Library, gpu: GpuFacts) -> Path:
    """Return where the cache of a plan is kept."""
    name = re.sub(r"\W+", "-", gpu.name).strip("-").lower()
    made_on = f"{name}-{gpu.architecture}-{gpu.driver}-{library.short_name}"
    return folder / f"{plan_sha256[:32]}.{made_on}.cache"


class RuntimeCache:
    """The library's cache, filled from its file; kept for as long as a context that was made with it."""

    def __init__(self, config: Any, file: Path) -> None:
        """`config` is an IRuntimeConfig; the GPU's context is the thread's."""
        self._file = file
        self._cache = config.create_runtime_cache()
        self._kept = _content(file)
        if self._kept and not self._cache.deserialize(self._kept):
            _log.debug("%s: made in other circumstances; it will be made anew", file)
            self._kept = b""
        self._is_taken = bool(config.set_runtime_cache(self._cache))
        if not self._is_taken:
            _log.warning("%s: the library does not take it: what it compiles is not kept", file)

    def save(self) -> None:
        """Write what is new to the file, once nothing is being executed.

        That it cannot be kept costs the next start time, and nothing else.
        """
        serialized = self._cache.serialize() if self._is_taken else None
        content = bytes(serialized) if serialized is not None else b""
        if not content or content == self._kept:
            return
        try:
            _write(self._file, content)
        except OSError as error:
            _log.warning("%s: what was compiled for this GPU is not kept: %s", self._file, error)
        else:
            self._kept = content


def _content(file: Path) -> bytes:
    """Return what was kept; nothing if there is none, or it is not whole."""
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        _log.warning("%s: what was compiled for this GPU cannot be read: %s", file, error)
        return b""
    digest, content = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        _log.warning("%s: damaged; it will be made anew", file)
        return b""
    return content


def _write(file: Path, content: bytes) -> None:
    """Put the file in its place in one step, whichever processes do so at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    written = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(hashlib.sha256(content).digest() + content)
        written.replace(file)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
