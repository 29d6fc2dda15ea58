"""What can go wrong between a model's file and its answers."""

from collections.abc import Iterable
from dataclasses import dataclass


class EngineError(Exception):
    """Base of every failure that this package raises on purpose; its text is fit for a person to read."""


class FolderError(EngineError):
    """A folder cannot be written: the text names the one that was asked for, and the reason."""


class ModelFileError(EngineError):
    """A model's file is missing, damaged, or not what its manifest says."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting in which a model is not what was declared of it.

    `setting` is named as in a configuration; `tensor` names the one that an input or output is about.
    """

    setting: str
    text: str
    tensor: str = ""

    def __str__(self) -> str:
        return f"{self.setting}{f' {self.tensor!r}' if self.tensor else ''}: {self.text}"


class DeclarationError(ModelFileError):
    """The model is not what was declared of it; `differences` are told one by one."""

    def __init__(self, differences: Iterable[Difference], text: str = "") -> None:
        """`text` stands for the differences where more is to be told than these."""
        self.differences = tuple(differences)
        super().__init__(text or "; ".join(map(str, self.differences)))


class UnsupportedModelError(EngineError):
    """The model is whole, but uses something that cannot be run or converted here."""


class GateError(EngineError):
    """An artefact was measured and is not good enough; the text carries the figures."""


class ExecutionError(EngineError):
    """The runtime failed on one batch; the engine is good for the next one."""


class MemoryExhausted(ExecutionError):
    """There was not enough memory for one batch; a smaller one may fit."""


class InputError(ExecutionError):
    """A program does not take these values: the fault is the caller's, who is told in this text."""


class EngineSpoilt(EngineError):
    """An error on the device has spoilt the engine and what it had in flight.

    `DeviceSide.renew` may make the engine usable again. `was_executed` says whether the batch that met this
    may have been the cause; where it was not begun, it can be executed by the renewed engine.
    """

    def __init__(self, text: str, *, was_executed: bool = True) -> None:
        super().__init__(text)
        self.was_executed = was_executed


class DeviceError(EngineError):
    """The device is gone or cannot be trusted any more: this engine will not answer again."""


class DataError(EngineError):
    """Rows to build with cannot be read, or do not fit the model; the text names file, column and line."""


class UntrustedSource(EngineError):
    """Opening the source can execute code that its author put in it, and nobody said that it may."""
