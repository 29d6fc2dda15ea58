"""What can go wrong between a model's file and its answers."""


class EngineError(Exception):
    """Base of every failure that this package raises on purpose; its text is fit for a person to read."""


class FolderError(EngineError):
    """A folder cannot be written: the text names the one that was asked for, and the reason."""


class ModelFileError(EngineError):
    """A model's file is missing, damaged, or not what its manifest says."""


class UnsupportedModelError(EngineError):
    """The model is whole, but uses something that cannot be run or converted here."""


class GateError(EngineError):
    """An artefact was measured and is not good enough; the text carries the figures."""


class ExecutionError(EngineError):
    """The runtime failed on one batch; the engine is good for the next one."""


class InputError(ExecutionError):
    """A program does not take these values: the fault is the caller's, who is told in this text."""


class DeviceError(EngineError):
    """The device is gone or cannot be trusted any more: this engine will not answer again."""
