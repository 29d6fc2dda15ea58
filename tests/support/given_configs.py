"""Configurations of a model `m` that has versions, labels and the data of a sample."""

from __future__ import annotations

from pathlib import Path

from headrace_server.models.model_config import GivenConfig, read


def model_folder(parent: Path) -> Path:
    """Write the folder of a model with three versions; no version holds anything."""
    model = parent / "m"
    for version in ("1", "2", "7"):
        (model / version).mkdir(parents=True)
    (model / "warmup").mkdir()
    (model / "warmup" / "row").write_bytes(bytes(12))
    (model / "labels.txt").write_text("cat\ndog \n\nbird\n")
    (model / "latin").write_bytes(b"caf\xe9\n")
    return model


def given_by(folder: Path, text: str) -> GivenConfig:
    """Return what this config.pbtxt says."""
    (folder / "config.pbtxt").write_text(text)
    return read(folder, folder.name)
