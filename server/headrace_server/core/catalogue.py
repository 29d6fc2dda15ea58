"""What the core needs of whoever keeps the models."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace_server.core.model import Model


class ModelState(enum.Enum):
    """Where a version stands; the values are the protocol's words."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a model in the repository; `reason` says why it is not ready."""

    name: str
    version: str
    state: ModelState
    reason: str = ""


class Catalogue(Protocol):
    """The models that the server knows."""

    def find(self, name: str, version: str) -> Model:
        """Return the model that answers; no version asks for the newest that is ready.

        Raises ModelNotFound, ModelNotReady, or InvalidInput where the version is no number.
        """

    def ready(self) -> Sequence[Model]:
        """Return every version that answers, ordered by name and version."""

    def index(self) -> Sequence[Entry]:
        """Return every version in the repository, ordered by name and version."""

    @property
    def complete(self) -> bool:
        """Whether everything has been loaded or has failed to."""
