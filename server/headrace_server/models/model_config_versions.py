"""Which versions of a model are served."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from headrace_proto.v1.model_config_pb2 import ModelVersionPolicy
from headrace_server.models.layout import is_version
from headrace_server.models.model_config_problems import Findings


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The newest `latest` versions, all where that is None, or those in `specific` where there are any."""

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    def chosen(self, versions: Collection[int]) -> tuple[int, ...]:
        """Return those of the versions that should be served, ascending."""
        there = tuple(sorted(set(versions)))
        if self.specific:
            return tuple(version for version in there if version in self.specific)
        return there if self.latest is None else there[-self.latest :]


def version_policy(policy: ModelVersionPolicy, folder: Path, findings: Findings) -> VersionPolicy:
    """Return what was asked for; versions that are asked for by number must be in the folder."""
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(latest=None)
        case "specific":
            return VersionPolicy(specific=_specific(policy.specific, folder, findings))
        case "latest" if "version_policy.latest.num_versions" in findings:
            path = "version_policy.latest.num_versions"
            if policy.latest.num_versions < 1:
                findings.report(path, f"{policy.latest.num_versions} came, 1 or more expected")
            return VersionPolicy(latest=max(1, policy.latest.num_versions))
        case _:
            return VersionPolicy()


def _specific(specific: ModelVersionPolicy.Specific, folder: Path, findings: Findings) -> tuple[int, ...]:
    path = "version_policy.specific.versions"
    there = _versions(folder)
    if not specific.versions:
        findings.report("version_policy.specific", "no version is named", "write versions: [1]")
    for position, version in enumerate(specific.versions):
        if version < 1:
            findings.report(f"{path}[{position}]", f"{version} is no version: 1 or more is expected")
        elif there and version not in there:
            listed = ", ".join(map(str, sorted(there)))
            findings.report(f"{path}[{position}]", f"there is no version {version}", f"there are: {listed}")
    return tuple(sorted(set(specific.versions)))


def _versions(folder: Path) -> set[int]:
    """Return the versions in a model's folder; none where it cannot be read, which is told elsewhere."""
    try:
        return {int(entry.name) for entry in folder.iterdir() if is_version(entry.name) and entry.is_dir()}
    except OSError:
        return set()
