"""What an importer is: the reader of one framework's files, run in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from headrace_engines.documents import Scalar
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.limits import Limits
from headrace_engines.rows import Rows

COLUMNS = "columns"
"""The fact that names the columns of a source's one matrix, in their order, as a JSON list."""

OPSET = 17
"""The version of ONNX's operators that is written unless told: both runtimes know all of it."""
OLDEST_OPSET = 13
"""Operators of older opsets have their axes in attributes, which neither quantisation nor TensorRT like."""
NEWEST_OPSET = 23
"""What the oldest ONNX Runtime that Headrace runs with knows, and TensorRT as well."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a source's file does not tell by itself.

    `factory` names the function that returns a PyTorch module for a file that holds weights alone:
    "file.py:function" or "package.module:function". `input_shapes` are the dims of one row, by the
    input's name; `input_dtypes` NumPy's names of the inputs' dtypes. `opset` is the least that is
    written. `is_trusted` says that code inside the source may be executed: an importer never does so
    without.
    """

    factory: str = ""
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    input_dtypes: Mapping[str, str] = field(default_factory=dict)
    opset: int = OPSET
    is_trusted: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Raise ValueError for an opset that is not written."""
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise ValueError(
                f"--opset {self.opset}: models are written in opsets {OLDEST_OPSET} to {NEWEST_OPSET}, which "
                "both runtimes know"
            )

    def check_factory(self, what: str) -> None:
        """Raise UnsupportedModelError for a factory that would have no effect on a source of this kind."""
        if self.factory:
            raise UnsupportedModelError(
                f"--factory makes the module of PyTorch that weights are for, and {what} needs none: leave "
                "it out"
            )


def standard_path(path: Path) -> Path:
    """Return where the twin of a model lies that is in ONNX's own domain alone, as TensorRT needs it."""
    return path.with_name(f"{path.stem}.standard.onnx")


def typical_path(path: Path) -> Path:
    """Return where rows like those of its training lie beside a model that tells of such."""
    return path.with_name(f"{path.stem}.typical.npy")


class Importer(Protocol):
    """A source that was opened in its own framework.

    Its module has `open_source(path: Path, options: ImportOptions) -> Importer`, which raises
    ModelFileError for a file that is damaged, and UnsupportedModelError for one that is whole and cannot
    be converted; either text says what to do.
    """

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """What the manifest tells of the source: its class, its framework's version, its parameters.

        The same file and framework give the same facts. COLUMNS is among them where the source knows the
        columns of its one matrix by names that a person gave them.
        """

    def convert(self, path: Path) -> None:
        """Write the model in FP32 as ONNX.

        The first axis of every input and output is dynamic and named "batch"; their names are the
        source's. Weights lie in files beside `path` where they come to more than 2 GB. A model with
        operators that CPUs execute better than what they stand for is also written as `standard_path`,
        in ONNX's own domain. One that tells of rows like those of its training, as support vectors are,
        leaves some at `typical_path`: FP32 [rows, features].
        """

    def answers(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return what the source's own framework answers: one array per output of the ONNX, in its order."""


@runtime_checkable
class WritesPmml(Protocol):
    """An importer whose sources also have a form in PMML."""

    def write_pmml(self, path: Path) -> None:
        """Write the model as PMML; UnsupportedModelError names what has no form in it."""
