"""A model's configuration, `config.pbtxt`: Triton's ModelConfig, read and checked whole.

Whatever it does not say is derived from the model; what Headrace does not honour is a problem, never
passed over. All problems are told at once, each with its line and its field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from headrace_engines import files
from headrace_engines.declaration import Declaration
from headrace_engines.errors import ModelFileError
from headrace_engines.placement import ANYWHERE, Placement
from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.core.settings import DEFAULT_SETTINGS, ModelSettings
from headrace_server.models import model_config_platform as platforms
from headrace_server.models.model_config_fields import refuse_unhonoured
from headrace_server.models.model_config_json import read_json
from headrace_server.models.model_config_own import OwnConfig
from headrace_server.models.model_config_problems import CONFIG_FILE, ConfigError, Findings, Problem
from headrace_server.models.model_config_scheduling import batching, placement
from headrace_server.models.model_config_sequences import sequences
from headrace_server.models.model_config_tensors import declared, labels
from headrace_server.models.model_config_text import Document, read_text
from headrace_server.models.model_config_versions import VersionPolicy, version_policy
from headrace_server.models.model_config_warmup import Warmup, warmups

_MOST_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class GivenConfig:
    """What was said about a model; the defaults stand for one of which nothing was said.

    `message` is the configuration as it was given, `lines` tells where in `file` each field stood.
    """

    declaration: Declaration = Declaration()
    settings: ModelSettings = DEFAULT_SETTINGS
    placement: Placement = ANYWHERE
    version_policy: VersionPolicy = VersionPolicy()
    warmups: tuple[Warmup, ...] = ()
    message: ModelConfig = field(default_factory=ModelConfig)
    file: str = CONFIG_FILE
    lines: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


def read(folder: Path, name: str) -> GivenConfig:
    """Read the `config.pbtxt` in a model's folder; without one, nothing was said. Raises ConfigError."""
    return _faultless(*examine(folder, name))


def examine(folder: Path, name: str) -> tuple[GivenConfig, tuple[Problem, ...]]:
    """Return the same with the problems that were found, as far as it can be read despite them.

    Raises ConfigError for a file that is no text.
    """
    path = folder / CONFIG_FILE
    if not path.exists() and not path.is_symlink():
        return GivenConfig(), ()
    return _given(read_text(_text(path), CONFIG_FILE), folder, name)


def own(folder: Path, name: str) -> OwnConfig:
    """Return what the `config.pbtxt` in a model's folder allows a caller's configuration to name."""
    try:
        given, problems = examine(folder, name)
    except ConfigError:
        return OwnConfig(ModelConfig(), None)
    return OwnConfig(given.message, None if problems else given.declaration)


def from_json(text: str, folder: Path, name: str, own: OwnConfig | None = None) -> GivenConfig:
    """Read a ModelConfig in JSON, with the names of the .proto or in camel case. Raises ConfigError.

    `own` is what the repository says, where the files in the folder are its own and not the caller's.
    """
    document = read_json(text)
    if own is not None:
        own.check_files(document)
    return _faultless(*_given(document, folder, name))


def _faultless(given: GivenConfig, problems: tuple[Problem, ...]) -> GivenConfig:
    if problems:
        raise ConfigError(problems)
    return given


def _text(path: Path) -> str:
    try:
        return files.text(path, _MOST_BYTES)
    except ModelFileError as error:
        reason = str(error).removeprefix(f"{path.name}: ")
        raise ConfigError([Problem(path.name, 0, "", reason)]) from error


def _given(document: Document, folder: Path, name: str) -> tuple[GivenConfig, tuple[Problem, ...]]:
    """Check everything; return what was said and what is wrong with it."""
    config = document.message
    findings = Findings(document.file, document.lines, document.problems)
    refuse_unhonoured(config, findings)
    if config.name and config.name != name:
        findings.report("name", f"{config.name!r} came, the folder's name {name!r} is expected")
    declaration = _declaration(config, findings)
    policy = version_policy(config.version_policy, folder, findings)
    placed = placement(config.instance_group, findings)
    settings = replace(_settings(config, declaration, folder, findings), instances=placed.on_cpu)
    samples = warmups(config, folder, findings)
    lines = MappingProxyType(document.lines)
    given = GivenConfig(declaration, settings, placed, policy, samples, config, document.file, lines)
    return given, findings.problems


def _declaration(config: ModelConfig, findings: Findings) -> Declaration:
    named = platforms.platform(config, findings)
    if config.max_batch_size < 0:
        text = f"{config.max_batch_size} came, 0 or more expected"
        findings.report("max_batch_size", text, "0 is a model whose requests are executed one by one")
    return Declaration(
        inputs=declared("input", config.input, findings),
        outputs=declared("output", config.output, findings),
        max_batch_size=max(0, config.max_batch_size) if "max_batch_size" in findings else None,
        file=platforms.file_name(config, named, findings),
        platform=named,
        is_decoupled=config.model_transaction_policy.decoupled,
        cuda_graphs=config.optimization.cuda.graphs or not config.optimization.HasField("cuda"),
        parameters=platforms.parameters(config, named, findings),
    )


def _settings(
    config: ModelConfig, declaration: Declaration, folder: Path, findings: Findings
) -> ModelSettings:
    return replace(
        batching(config, findings),
        is_decoupled=declaration.is_decoupled,
        labels=labels(config.output, folder, findings),
        sequences=sequences(config, findings),
        metric_tags=_metric_tags(config, findings),
    )


def _metric_tags(config: ModelConfig, findings: Findings) -> Mapping[str, str]:
    """Return the labels of the model's metrics, whose names Prometheus has to take with a `_` in front."""
    for name in config.metric_tags:
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_]*", name):
            findings.report("metric_tags", f"{name!r} came, a name of letters, digits and _ is expected")
    return MappingProxyType(dict(config.metric_tags))
