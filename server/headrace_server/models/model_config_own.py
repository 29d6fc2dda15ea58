"""What a caller's configuration may make of the files in a repository.

A program is executed and a file's lines are told to callers only where whoever keeps the repository has said
so: anything else may lie beside a model, such as the script that exported it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headrace_engines.candidates import program
from headrace_engines.declaration import Declaration
from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.models.model_config_problems import Findings
from headrace_server.models.model_config_text import Document

_HINT = "name a file that config.pbtxt names there, or send the model's files along"


@dataclass(frozen=True, slots=True)
class OwnConfig:
    """What the repository itself says about a model; `declaration` is None where that cannot be honoured."""

    message: ModelConfig
    declaration: Declaration | None

    def check_files(self, document: Document) -> None:
        """Raise ConfigError where a caller names a file of labels or samples that is not named here."""
        findings = Findings(document.file, document.lines)
        named = {PurePosixPath(name) for name in _labels(self.message).values()}
        for path, name in _labels(document.message).items():
            _check(path, name, named, findings)
        named = {PurePosixPath(name) for name in _samples(self.message).values()}
        for path, name in _samples(document.message).items():
            _check(path, name, named, findings)
        findings.end()

    def check_program(self, folder: Path, declaration: Declaration, findings: Findings) -> None:
        """Report it where a caller declares a program that this version's folder is not served with."""
        file = program(folder, declaration)
        if file and (self.declaration is None or file != program(folder, self.declaration)):
            findings.report(
                "default_model_filename" if declaration.file else "backend",
                f"{file} is not what the repository serves in version {folder.name} as a program",
                "programs are chosen by the repository's own configuration, and not by callers",
            )


def _check(path: str, name: str, named: set[PurePosixPath], findings: Findings) -> None:
    if PurePosixPath(name) not in named:
        findings.report(path, f"{name!r} is not named by the repository's own configuration", _HINT)


def _labels(config: ModelConfig) -> dict[str, str]:
    """Return the names of label files by the path of the field."""
    return {
        f"output[{position}].label_filename": output.label_filename
        for position, output in enumerate(config.output)
        if output.label_filename
    }


def _samples(config: ModelConfig) -> dict[str, str]:
    """Return the names of files with samples by the path of the field."""
    return {
        f'model_warmup[{position}].inputs["{name}"].input_data_file': given.input_data_file
        for position, sample in enumerate(config.model_warmup)
        for name, given in sample.inputs.items()
        if given.HasField("input_data_file")
    }
