"""Which changes of the repositories may be acted on: those that are over.

A look finds folders in the middle of being written. What differs from the look before is waited for, unless
it was renamed into its place, which cannot be half done. What has vanished has to be gone for two looks,
because somebody who exchanges two folders leaves a moment without either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from headrace_server.models.layout import FoundModel, FoundVersion, Stamp

Found = Mapping[str, FoundModel]


class Watch:
    """Compares looks. A plain data structure without a clock, a thread or files."""

    def __init__(self, first: Found) -> None:
        """Everything of the first look is taken to be served, or tried, as it stood then."""
        self._acted = dict(first)
        self._before = first

    def compare(self, now: Found) -> dict[str, FoundModel | None]:
        """Return the models that should be served differently: as they stand, or None for those to unload.

        Each change is returned once, whatever comes of acting on it.
        """
        before, self._before = self._before, now
        changed: dict[str, FoundModel | None] = {}
        for name in sorted({*now, *self._acted}):
            acted = self._acted.get(name)
            steady = _steady_model(now.get(name), before.get(name), acted)
            if steady == acted:
                continue
            changed[name] = None if _is_removal(steady, acted) else steady
            if steady is None:
                del self._acted[name]
            else:
                self._acted[name] = steady
        return changed


def _steady_model(
    now: FoundModel | None, before: FoundModel | None, acted: FoundModel | None
) -> FoundModel | None:
    """Return the model as it may be served, which is as it was acted on where a change is not over."""
    if now is None:
        return None if before is None else acted
    if not now.versions:
        return now if now == before else acted
    if not _is_over(now.stamp, before.stamp if before else Stamp()):
        return acted
    versions = {}
    for number in sorted({*now.versions, *(acted.versions if acted else ())}):
        version = _steady_version(
            now.versions.get(number),
            before.versions.get(number) if before else None,
            acted.versions.get(number) if acted else None,
        )
        if version is not None:
            versions[number] = version
    return replace(now, versions=versions) if versions else acted


def _steady_version(
    now: FoundVersion | None, before: FoundVersion | None, acted: FoundVersion | None
) -> FoundVersion | None:
    if now is None:
        return None if before is None else acted
    return now if _is_over(now.stamp, before.stamp if before else None) else acted


def _is_over(now: Stamp, before: Stamp | None) -> bool:
    return now.was_placed or now == before


def _is_removal(steady: FoundModel | None, acted: FoundModel | None) -> bool:
    """Whether there is nothing left to serve; a model that cannot be read may still be there."""
    if steady is None:
        return True
    return not steady.versions and not steady.problem and acted is not None and bool(acted.versions)
