"""Files that a configuration names. They lie in the model's folder, since callers may send configurations."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from headrace_server.models.model_config_problems import Findings, did_you_mean


def inside(folder: Path, name: str, field: str, findings: Findings) -> Path | None:
    """Return the path of a file in the folder; None, and a problem, if the name leads elsewhere."""
    given = PurePosixPath(name)
    if given.is_absolute() or ".." in given.parts or "\0" in name or not given.parts:
        findings.report(field, f"{name!r} leads out of the model's folder", "name a file in it")
        return None
    return folder / given


def near(file: Path) -> str:
    """Return a question naming a file beside the one that was named, "" if none has a name like it."""
    try:
        return did_you_mean(file.name, [entry.name for entry in file.parent.iterdir()])
    except OSError:
        return ""
