"""What a loaded model takes of memory, as far as its files and spec tell; what is freed goes back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from headrace_engines.errors import ModelFileError
from headrace_engines.spec import ModelSpec

_LARGEST_SHARE: Final = 0.5
"""Of the machine's memory, for the staging buffers of one engine."""


@dataclass(frozen=True, slots=True)
class Held:
    """The bytes that a model's weights and batches take: of the host, and of each GPU by its index.

    On a GPU those of batches are all that its engines have allocated or seen libraries take, as for
    activations and execution contexts; on the host they are the buffers.
    """

    host_bytes: int = 0
    gpu_bytes: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))


def held(
    buffers: Sequence[int],
    counts: Sequence[int],
    on_gpus: Sequence[tuple[int, int]],
    weights: int,
    *,
    shares_weights: bool,
) -> Held:
    """Return what instances take, `counts` of each of several engines, whose buffers take so many bytes.

    Each engine is on the GPU that `on_gpus` has in its place, beside the bytes that an instance holds there
    for batches; its weights are its own, or those of another instance there. Without any GPU all is on the
    host.
    """
    host = sum(count * size for count, size in zip(counts, buffers, strict=True))
    if not on_gpus:
        return Held(host + weights)
    there = {
        gpu: (1 if shares_weights else count) * weights + count * size
        for (gpu, size), count in zip(on_gpus, counts, strict=True)
    }
    return Held(host, MappingProxyType(there))


def staging_bytes(spec: ModelSpec) -> int:
    """Return the bytes of one set of staging buffers: a full batch in and out, as far as sizes are fixed."""
    if not spec.is_staged:
        return 0
    tensors = [tensor for tensor in (*spec.inputs, *spec.outputs) if tensor.is_fixed]
    return spec.max_batch_size * sum(tensor.row_bytes for tensor in tensors)


def check_staging(spec: ModelSpec) -> None:
    """Raise ModelFileError if the largest batch would fill the machine."""
    needed = staging_bytes(spec)
    most = int(_LARGEST_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if needed > most:
        raise ModelFileError(
            f"a batch of {spec.max_batch_size} rows takes {needed} bytes, more than half of this machine's "
            f"memory, {most} bytes: lower max_batch_size"
        )


def files_bytes(folder: Path, without: Collection[str]) -> int:
    """Return the bytes of the files in a version's folder, which hold the model's weights.

    `without` names those that the model does not need, as other artefacts.
    """
    return sum(
        entry.stat().st_size for entry in folder.iterdir() if entry.name not in without and entry.is_file()
    )


def give_back() -> None:
    """Give the machine what was freed and the C library keeps: a load frees about as much as the model takes.

    Takes some milliseconds, in which other threads go on. Does nothing where the library has no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
