"""Plans that were rebuilt on this machine, each in a folder beside what decided it.

`<folder>/<SHA-256 of the ONNX file>/<key of the rest>/` holds the plan and `plan.json`: its hash, what built
it, for which GPU, and how like ONNX Runtime's its answers were. Folders appear whole or not at all; what is
found is proved by its hash before a library reads it, and what is damaged counts as not there.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_engines import folders, manifest
from headrace_engines.documents import Fields, Scalar, dump
from headrace_engines.errors import ModelFileError
from headrace_engines.manifest import Artefact
from headrace_engines.plan_gate import Likeness
from headrace_engines.plan_order import PlanOrder

FOLDER: Final = "plans"
"""The folder of rebuilt plans in the one that builds are kept in."""
FILE_NAME: Final = "plan.json"
FORMAT_VERSION: Final = 1
_TARGET: Final = "tensorrt"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RebuiltPlan:
    """What `plan.json` tells. `model` is the ONNX file's name, `gpu` that of the GPU it was judged on."""

    folder: Path
    plan: Artefact
    model: str
    library: str
    architecture: str
    gpu: str
    settings: Mapping[str, Scalar]
    likeness: Likeness

    @property
    def path(self) -> Path:
        """The plan."""
        return self.folder / self.plan.file


class RebuiltPlans:
    """The plans of one folder, and what could not be rebuilt while this process lives. Any thread may ask."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the first plan is kept."""
        self._folder = folder
        self._failures: dict[tuple[str, str], str] = {}

    def find(self, order: PlanOrder) -> RebuiltPlan | None:
        """Return the plan that was rebuilt to this order; None without one that is whole."""
        folder = self._place(order)
        if not folder.is_dir():
            return None
        try:
            found = read(folder, verifying=True)
        except ModelFileError as error:
            _log.warning("the plan rebuilt in %s is damaged, and built again: %s", folder, error)
            return None
        with suppress(OSError):  # a folder that cannot be written still serves
            os.utime(folder)
        return found

    def find_or_make(
        self, order: PlanOrder, make: Callable[[Path], Likeness], on_wait: Callable[[], None]
    ) -> RebuiltPlan:
        """Return the plan of this order; where it is not there, `make` builds it as the file it is given.

        One process at a time rebuilds the plans of one ONNX file; `on_wait` is called if that means waiting.
        Raises FolderError if the folder cannot be written, and what `make` raises.
        """
        folder = self._place(order)
        with folders.writing(self._folder), folders.locked(folder.parent, on_wait):
            if (found := self.find(order)) is not None:
                return found
            with folders.staged(folder.parent) as staging:
                into = staging / order.file
                (staging / FILE_NAME).write_bytes(_described(order, into, make(into)))
                folders.sync(staging)
                if folder.exists():
                    shutil.rmtree(folder)
                staging.rename(folder)
            folders.sync_entry(folder.parent)
        return read(folder)

    def note_failure(self, order: PlanOrder, reason: str) -> None:
        """Remember that the order cannot be fulfilled here, so that it is not tried again."""
        self._failures[order.sha256, order.key] = reason

    def failure(self, order: PlanOrder) -> str:
        """Return why the order could not be fulfilled; "" if nobody has failed in it."""
        return self._failures.get((order.sha256, order.key), "")

    def _place(self, order: PlanOrder) -> Path:
        return self._folder / order.sha256 / order.key


def read(folder: Path, *, verifying: bool = False) -> RebuiltPlan:
    """Read what a folder holds; `verifying` proves the plan by its hash. Raises ModelFileError."""
    fields = Fields.load(folder / FILE_NAME, FORMAT_VERSION)
    if fields is None:
        raise ModelFileError(f"{FILE_NAME} is missing")
    model = fields.text("model")
    plan = Artefact(
        file=fields.text("file"),
        recipe=fields.text("recipe"),
        target=_TARGET,
        sha256=fields.text("sha256"),
        size_bytes=fields.integer("size_bytes"),
        passed=True,
        reason=f"rebuilt on this machine from {model}",
    )
    found = RebuiltPlan(
        folder=folder,
        plan=plan,
        model=model,
        library=fields.text("library"),
        architecture=fields.text("architecture"),
        gpu=fields.text("gpu"),
        settings=fields.scalars("settings"),
        likeness=Likeness(fields.integer("rows"), fields.number("sqnr_db"), fields.number("agreement")),
    )
    fields.end()
    if Path(plan.file).name != plan.file:
        raise fields.wrong("file", repr(plan.file), "the name of a file in the same folder")
    if verifying:
        manifest.verify(folder, plan)
    return found


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """One rebuilt plan on the disk; `damage` says what is wrong with it, "" if nothing is.

    `used_at` is when a server made or took it, in seconds since 1970.
    """

    folder: Path
    size_bytes: int
    used_at: float
    plan: RebuiltPlan | None
    damage: str


def stored(folder: Path, *, verifying: bool = False) -> list[StoredPlan]:
    """Return what a folder of plans holds, what was used last first; `verifying` reads each for its hash."""
    places = [place for models in _of_models(folder) for place in _within(models)]
    found = [_stored(place, verifying=verifying) for place in places]
    return sorted(found, key=lambda single: single.used_at, reverse=True)


def prune(folder: Path, unused_since: float, on_wait: Callable[[], None]) -> list[StoredPlan]:
    """Remove what is damaged and what no server has used since a time; return what was removed.

    Raises FolderError if the folder cannot be written.
    """
    gone = []
    with folders.writing(folder):
        for models in _of_models(folder):
            with folders.locked(models, on_wait):
                for single in [_stored(place, verifying=True) for place in _within(models)]:
                    if single.damage or single.used_at < unused_since:
                        shutil.rmtree(single.folder)
                        gone.append(single)
    return gone


def _of_models(folder: Path) -> list[Path]:
    return [models for models in sorted(folder.glob("*")) if models.is_dir()]


def _within(models: Path) -> list[Path]:
    return [place for place in sorted(models.glob("[!.]*")) if place.is_dir()]


def _stored(folder: Path, *, verifying: bool) -> StoredPlan:
    plan, damage = None, ""
    try:
        plan = read(folder, verifying=verifying)
    except ModelFileError as error:
        damage = str(error)
    size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return StoredPlan(folder, size_bytes, folder.stat().st_mtime, plan, damage)


def _described(order: PlanOrder, built: Path, likeness: Likeness) -> bytes:
    plan = manifest.artefact_of(built, order.recipe, _TARGET, "")
    return dump(
        {
            "format_version": FORMAT_VERSION,
            "model": order.model.name,
            "file": plan.file,
            "recipe": plan.recipe,
            "sha256": plan.sha256,
            "size_bytes": plan.size_bytes,
            "library": order.library.short_name,
            "architecture": order.architecture,
            "gpu": order.gpu.name,
            "settings": dict(order.settings.described),
            "rows": likeness.rows,
            "sqnr_db": likeness.sqnr_db,
            "agreement": likeness.agreement,
        }
    )
