"""A plan's file, checked before any library sees it: what a library makes of the wrong bytes is not defined.

A plan is loaded by the exact version that built it, and one of TensorRT on the architecture of GPU that it
was built on. Both stand in the name that `headrace build` gives it: `model.sm90-trt10.13.2.plan`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines import files
from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.plans.nvidia import ANY_ARCHITECTURE, Library
from headrace_engines.runtime.cuda.driver import GpuFacts
from headrace_engines.spec import TensorSpec

_NAME: Final = re.compile(r"\.(any|sm\d+)-((?:trt|rtx)\d[\w.]*)\.plan$")
_OTHER_VERSION: Final = re.compile(r"version|compatib|built (?:on|for)|compute capability", re.IGNORECASE)
_OLD_DRIVER: Final = re.compile(
    r"insufficient for CUDA runtime|cudaErrorInsufficientDriver|CUDA[^.]* error:? 35\b", re.IGNORECASE
)


class PlanMismatch(UnsupportedModelError):
    """The plan is whole, and was built for another GPU or by another library: one built here would do."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a manifest says of a plan; the tensors leave the batch axis out."""

    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What stands in a plan's file."""

    content: bytes
    sha256: str


def read(path: Path, library: Library, gpu: GpuFacts, *, sha256: str = "", size_bytes: int = 0) -> PlanFile:
    """Return the plan, which this library may load on this GPU as far as its name tells.

    Its SHA-256 and size, where they are known, are compared. Raises ModelFileError if the file is missing or
    damaged, PlanMismatch saying what differs.
    """
    files.check(path)
    if size_bytes:
        _check_size(path, size_bytes)
    if differences := _differences(path.name, library, gpu):
        raise PlanMismatch(f"{path.name}: {'; '.join(differences)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise files.unreadable(path, error) from error
    if not content:
        raise ModelFileError(f"{path.name}: {files.nature(path)}")
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise ModelFileError(
            f"{path.name}: damaged, or not the file that its manifest describes: its SHA-256 is {found}, "
            f"expected {sha256}"
        )
    return PlanFile(content, found)


def refusal(path: Path, said: list[str]) -> ModelFileError | UnsupportedModelError:
    """Return the error of a plan that the library did not take, which said so, to be raised."""
    text = " ".join((said[-1] if said else "it did not say why").split())
    if any(map(_OLD_DRIVER.search, said)):
        reason = f"the driver is too old for the library, install a newer one: {text}"
        return UnsupportedModelError(f"{path.name}: {reason}")
    kind = PlanMismatch if any(map(_OTHER_VERSION.search, said)) else ModelFileError
    return kind(f"{path.name}: the library does not load it: {text}")


def _check_size(path: Path, expected_bytes: int) -> None:
    found_bytes = path.stat().st_size
    if found_bytes != expected_bytes:
        raise ModelFileError(f"{path.name}: damaged: it has {found_bytes} bytes, expected {expected_bytes}")


def _differences(name: str, library: Library, gpu: GpuFacts) -> list[str]:
    """Say in what the plan differs from what it is to run on; nothing of one whose name does not tell."""
    built = _NAME.search(name)
    if built is None:
        return []
    architecture, built_by = built.groups()
    differences = []
    if built_by != library.short_name:
        differences.append(f"it was built by {built_by}, and {library.short_name} is installed")
    if architecture not in (ANY_ARCHITECTURE, gpu.architecture):
        differences.append(f"it was built for {architecture}, and {gpu.name} is {gpu.architecture}")
    return differences
