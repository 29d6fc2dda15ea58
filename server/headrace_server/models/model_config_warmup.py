"""A configuration's warm-up samples: requests that are executed before any caller's."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from headrace_engines import files
from headrace_engines.errors import ModelFileError
from headrace_proto.v1 import model_config_pb2 as config_pb
from headrace_server.models.model_config_paths import inside, near
from headrace_server.models.model_config_problems import Findings, did_you_mean
from headrace_server.models.model_config_tensors import dtype_of

FOLDER: Final = "warmup"
"""Where the data files of samples lie in a model's folder."""

_MOST_COUNT: Final = 100_000
_MOST_SAMPLE_BYTES: Final = 1 << 30
"""Of one input: a sample that fills the machine would end the server."""


class Filling(enum.Enum):
    """What a sample's input is filled with."""

    ZEROS = enum.auto()
    RANDOM = enum.auto()
    FILE = enum.auto()


@dataclass(frozen=True, slots=True)
class WarmupInput:
    """One input of a sample; `dims` are those of one row, and each of the sample's rows is the same."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int, ...]
    filling: Filling
    file: Path | None = None
    """Raw contents of one row, as on the wire."""


@dataclass(frozen=True, slots=True)
class Warmup:
    """One sample: a request of so many rows, executed `count` times."""

    name: str
    rows: int
    inputs: tuple[WarmupInput, ...]
    count: int = 1


def warmups(config: config_pb.ModelConfig, folder: Path, findings: Findings) -> tuple[Warmup, ...]:
    """Return the samples."""
    return tuple(
        _warmup(sample, config, f"model_warmup[{position}]", folder, findings)
        for position, sample in enumerate(config.model_warmup)
    )


def _warmup(
    sample: config_pb.ModelWarmup,
    config: config_pb.ModelConfig,
    path: str,
    folder: Path,
    findings: Findings,
) -> Warmup:
    rows = sample.batch_size if f"{path}.batch_size" in findings else 1
    most = max(1, config.max_batch_size)
    if rows < 1:
        findings.report(f"{path}.batch_size", f"{rows} came, 1 or more expected")
    elif "max_batch_size" in findings and rows > most:
        findings.report(f"{path}.batch_size", f"{rows} is more rows than the model takes, {most}")
    count = sample.count or 1
    if count > _MOST_COUNT:
        findings.report(f"{path}.count", f"{count} is out of range; the most is {_MOST_COUNT}")
    if not sample.inputs:
        findings.report(path, "the sample has no inputs")
    known = {tensor.name for tensor in config.input}
    inputs = []
    for name in sample.inputs:
        place = f'{path}.inputs["{name}"]'
        if known and name not in known:
            findings.report(place, f"there is no input {name!r}", did_you_mean(name, known))
        read = _input(name, sample.inputs[name], place, folder, findings)
        if read and math.prod((rows, *read.dims, read.dtype.itemsize)) > _MOST_SAMPLE_BYTES:
            text = f"{rows} rows of {list(read.dims)} are over {_MOST_SAMPLE_BYTES} bytes"
            findings.report(f"{place}.dims", text)
        inputs += [read] if read else []
    return Warmup(sample.name or path, rows, tuple(inputs), count)


def _input(
    name: str, given: config_pb.ModelWarmup.Input, path: str, folder: Path, findings: Findings
) -> WarmupInput | None:
    dtype = dtype_of(given.data_type)
    if dtype is None:
        findings.report(f"{path}.data_type", "a data type is expected")
    _check_sizes(f"{path}.dims", given.dims, findings)
    match given.WhichOneof("input_data_type"):
        case "zero_data" if given.zero_data:
            filling, file = Filling.ZEROS, None
        case "random_data" if given.random_data:
            filling, file = Filling.RANDOM, None
        case "input_data_file":
            filling, file = Filling.FILE, _data_file(folder, given.input_data_file, path, findings)
        case _:
            findings.report(path, "no data", "say zero_data: true, random_data: true or input_data_file")
            return None
    if dtype is None:
        return None
    tensor = WarmupInput(name, dtype, tuple(given.dims), filling, file)
    if file is not None:
        _check_size(tensor, file, f"{path}.input_data_file", findings)
    return tensor


def _check_sizes(path: str, dims: Sequence[int], findings: Findings) -> None:
    for position, dim in enumerate(dims):
        if dim < 1:
            findings.report(f"{path}[{position}]", f"{dim} is no size of a sample: 1 or more is expected")


def _data_file(folder: Path, name: str, path: str, findings: Findings) -> Path | None:
    file = inside(folder / FOLDER, name, f"{path}.input_data_file", findings)
    if file is None:
        return None
    try:
        files.check(file)
    except ModelFileError as error:
        hint = near(file) or f"it is looked for in {FOLDER}/ in the model's folder"
        findings.report(f"{path}.input_data_file", str(error), hint)
        return None
    return file


def _check_size(tensor: WarmupInput, file: Path, path: str, findings: Findings) -> None:
    if tensor.dtype == np.dtype(object):
        return
    expected = math.prod(tensor.dims) * tensor.dtype.itemsize
    if (came := file.stat().st_size) != expected:
        findings.report(path, f"{file.name} has {came} bytes, {expected} expected for {list(tensor.dims)}")
