"""One real build, shared by every test that needs artefacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace_engines.build import BuildOptions, BuildResult, build


@dataclass(frozen=True, slots=True)
class BuiltDigits:
    """A build of the digits classifier; its folders are not to be changed."""

    store: Path
    repository: Path
    result: BuildResult
    steps: tuple[tuple[str, float], ...]


@pytest.fixture(scope="session")
def built_digits(tmp_path_factory: pytest.TempPathFactory) -> BuiltDigits:
    folder = tmp_path_factory.mktemp("digits")
    steps: list[tuple[str, float]] = []
    result = build(
        "digits",
        "digits",
        folder / "models",
        options=BuildOptions(recipes=("int8-cpu",)),
        store_folder=folder / "store",
        progress=lambda step, fraction: steps.append((step, fraction)),
    )
    return BuiltDigits(folder / "store", folder / "models", result, tuple(steps))
