"""What the core needs of whoever keeps the models."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
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


@dataclass(frozen=True, slots=True)
class Override:
    """What a caller says about a model instead of the repository: its configuration, and perhaps its files.

    `config` is a ModelConfig in JSON; `files` are the contents by path in the model's folder
    ("1/model.onnx"), and where there are any, the repository's own are not looked at.
    """

    config: str
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))


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


class ModelControl(Protocol):
    """Loads and unloads models while others are served. Both calls block until it is done."""

    def load_model(self, name: str, override: Override | None = None) -> None:
        """Make the model serve what the repository holds now, or what the override says.

        The versions that serve go on until the new ones can take over. Raises ControlDisabled,
        ModelNotFound, or InvalidInput where it cannot be loaded, with the reason.
        """

    def unload_model(self, name: str) -> None:
        """Answer what was accepted, then let go of every version. Raises ControlDisabled, ModelNotFound."""
