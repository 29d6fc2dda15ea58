"""What the core needs of whoever keeps the models."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from headrace_server.core.model import Model

IsWanted: TypeAlias = Callable[[], bool]
"""Whether whoever asked still waits for the outcome. Any thread may ask."""


def always() -> bool:
    """Whoever asked waits for as long as it takes."""
    return True


UNLOADED: Final = "unloaded"
"""Why a version that served does not answer, where nothing is wrong with it."""


class ModelState(enum.Enum):
    """Where a version stands; the values are the protocol's words."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"
    NOT_LOADED = ""
    """The repository holds such a model, and nothing has asked for it yet."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a model in the repository, or the model as a whole where `version` is "".

    `reason` says why it is not ready, or why what is ready is not what the repository holds now.
    """

    name: str
    version: str
    state: ModelState
    reason: str = ""

    @property
    def should_answer(self) -> bool:
        """Whether it is meant to serve: another version may have replaced it, or a caller unloaded it."""
        if self.state is ModelState.UNAVAILABLE:
            return self.reason != UNLOADED
        return self.state not in (ModelState.UNLOADING, ModelState.NOT_LOADED)


@dataclass(frozen=True, slots=True)
class Override:
    """What a caller says about a model instead of the repository: its configuration, and perhaps its files.

    `config` is a ModelConfig in JSON, or None where nothing is said; `files` are the contents by path in
    the model's folder ("1/model.onnx"), and where there are any, the repository's own are not looked at.
    """

    config: str | None = None
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))


class Catalogue(Protocol):
    """The models that the server knows."""

    def find(self, name: str, version: str) -> Model:
        """Return the model that answers; no version asks for the newest that is ready.

        Raises ModelNotFound, ModelNotReady, or InvalidInput where the version is no number.
        """

    def answers(self, name: str, version: str) -> bool:
        """Whether that model is there and can answer; costs little whatever is asked for, for callers poll.

        Raises InvalidInput where the version is no number.
        """

    def ready(self) -> Sequence[Model]:
        """Return every version that answers, ordered by name and version."""

    def index(self) -> Sequence[Entry]:
        """Return every version that has been asked for, and every other model of the repository."""

    @property
    def is_ready(self) -> bool:
        """Whether to send requests here: the first loads are over, and what should answer does."""


class ModelControl(Protocol):
    """Loads and unloads models while others are served. Every call may block.

    `repository` is "" or names the folder that the model has to be in, else NotSupported is raised. What
    waits for the model's turn is given up, with DeadlineMissed, once it is not wanted any more.
    """

    def check_control(self) -> None:
        """Raise ControlDisabled where callers may neither load nor unload."""

    def load_model(
        self,
        name: str,
        override: Override | None = None,
        repository: str = "",
        is_wanted: IsWanted = always,
    ) -> None:
        """Make the model serve what the repository holds now, or what the override says.

        The versions that serve go on until the new ones can take over. Raises ControlDisabled,
        ModelNotFound, or InvalidInput where it cannot be loaded, with the reason.
        """

    def unload_model(self, name: str, repository: str = "", is_wanted: IsWanted = always) -> None:
        """Answer what was accepted, then let go of every version. Raises ControlDisabled, ModelNotFound."""

    def index(self, repository: str = "") -> Sequence[Entry]:
        """Return what `Catalogue.index` does, as the repositories stand now."""
