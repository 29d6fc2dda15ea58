"""What a model should serve: the versions that its policy chooses, and how each is configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_server.models import model_config
from headrace_server.models.layout import FoundModel, Stamp
from headrace_server.models.model_config import GivenConfig
from headrace_server.models.model_config_problems import Findings
from headrace_server.models.overrides import Upload


class PlanError(Exception):
    """Nothing of the model can be served; the text says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version is loaded from; where it is equal, there is nothing to load anew."""

    version: Stamp
    model: Stamp
    config: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """One version to serve. `upload` holds the files where they are a caller's, and not the repository's."""

    number: int
    folder: Path
    given: GivenConfig
    origin: Origin
    upload: Upload | None = None


def plan(found: FoundModel, config: str | None = None, upload: Upload | None = None) -> Mapping[int, Source]:
    """Return what to serve of a model, by version.

    `config` is a ModelConfig in JSON that stands for the model's own. Raises PlanError or ConfigError.
    """
    if found.problem:
        raise PlanError(found.problem)
    if not found.versions:
        raise PlanError(f"{found.folder} has no version: a folder named 1, 2, … is expected")
    own = None
    if config is None:
        given = model_config.read(found.folder, found.name)
    else:
        own = model_config.own(found.folder, found.name) if upload is None else None
        given = model_config.from_json(config, found.folder, found.name, own)
    chosen = given.version_policy.chosen(found.versions)
    if not chosen:
        there = ", ".join(map(str, found.versions))
        raise PlanError(f"the version policy chooses none of the versions {there}")
    if own is not None:
        findings = Findings(given.file, given.lines)
        for number in chosen:
            own.check_program(found.versions[number].folder, given.declaration, findings)
        findings.end()
    return {
        number: Source(
            number,
            found.versions[number].folder,
            given,
            Origin(found.versions[number].stamp, found.stamp, config),
            upload,
        )
        for number in chosen
    }
