"""The ways in which a request can fail, as facts of this domain.

Each transport maps them to its own codes in one table. Their texts are written for the caller and
leave the server; the text of any other exception does not.
"""

from __future__ import annotations


class InferenceError(Exception):
    """Base of every failure that a caller is told about in words."""


class InvalidInput(InferenceError):
    """The request is wrong: the text names the tensor or field, what came, and what was expected."""


class MessageTooLarge(InferenceError):
    """The message has more bytes than the server accepts."""


class ModelNotFound(InferenceError):
    """No such model, or no such version of it."""


class ModelNotReady(InferenceError):
    """The model is known, but is loading, unloading, or failed to load."""


class RegionNotFound(InferenceError):
    """No shared memory region of this name is registered."""


class RegionExists(InferenceError):
    """A shared memory region of this name is registered already."""


class Overloaded(InferenceError):
    """A limit is reached, of a model's queue or of the server; there will probably be room after
    `retry_after_seconds`, which is a guess unless something better is known."""

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unread(Overloaded):
    """The caller does not read its responses, while an engine waits: whatever else stands on the same stream
    would be read no better, and ends with it."""


class DeadlineMissed(InferenceError):
    """The deadline passed before the request was executed; it never will be."""


class EngineFailed(InferenceError):
    """The engine failed on the batch that this request was in; `error_id` finds it in the log."""

    def __init__(self, message: str, error_id: str) -> None:
        super().__init__(f"{message} (error {error_id})")
        self.error_id = error_id


class DeviceLost(InferenceError):
    """The device that runs the model is gone."""


class ShuttingDown(InferenceError):
    """The server is stopping and takes no new requests."""


class ControlDisabled(InferenceError):
    """The server was started so that its models cannot be controlled so: the text names the setting."""


class NotSupported(InferenceError):
    """The protocol has this feature and the server does not: the text names it."""
