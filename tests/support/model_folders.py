"""Model repositories on disk, written as people and tools write them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def put(repository: Path, name: str, model: Path | bytes, version: int | str = 1) -> Path:
    """Write a version where it stands; return its folder."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, bytes):
        (folder / "model.onnx").write_bytes(model)
    else:
        shutil.copyfile(model, folder / "model.onnx")
    return folder


def place(repository: Path, name: str, model: Path | bytes, version: int | str = 1) -> Path:
    """Write a version aside, and rename it into its place; return its folder."""
    aside = put(repository, ".aside", model, f"{name}-{version}")
    long_ago_ns = 10**18
    for path in (aside / "model.onnx", aside):
        os.utime(path, ns=(long_ago_ns, long_ago_ns))  # the system's clock for files ticks slowly
    folder = repository / name / str(version)
    folder.parent.mkdir(exist_ok=True)
    aside.rename(folder)
    return folder
