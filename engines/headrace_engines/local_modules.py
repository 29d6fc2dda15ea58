"""Modules of a person's own that a source was made by: its code, and what that imports beside it.

Which these are shows only when they are imported, so no key of a build can hold them. They stand in the
manifest, each with its hash, and what was built is used again only while the same names lead to the same.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

import headrace_engines
from headrace_engines import files
from headrace_engines.documents import Scalar
from headrace_engines.errors import ModelFileError

_SETTING: Final = "module."
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_CHANGED: Final = "changed while it was built"


def imported() -> dict[str, str]:
    """Return the files of this process's modules that no library brought, by the modules' names."""
    shared = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    others = [*shared, str(Path(headrace_engines.__file__).parent), tempfile.gettempdir()]
    folders = tuple({place for other in others for place in (Path(other), Path(other).resolve())})
    found = {}
    for name, module in list(sys.modules.items()):
        told = getattr(module, "__dict__", {}).get("__file__")
        file = Path(told).absolute() if isinstance(told, str) else None
        if file and file.is_file() and not any(map(file.is_relative_to, folders)):
            found[name] = file
    installed = {root: _is_installed(root) for root in {_root(*pair) for pair in found.items()}}
    return {name: str(file) for name, file in found.items() if not installed[_root(name, file)]}


def _root(name: str, file: Path) -> Path:
    """Return the folder that a module was looked for in."""
    depth = name.count(".") + (file.stem == "__init__")
    return file.parents[min(depth, len(file.parents) - 1)]


def _is_installed(root: Path) -> bool:
    """Whether libraries were installed into a folder; pip leaves a note of each there."""
    return not _INSTALLED.isdisjoint(root.parts) or any(root.glob("*.dist-info"))


def described(modules: Mapping[str, str], began_ns: int) -> dict[str, Scalar]:
    """Return what the manifest tells of modules, given by name and file, that were imported since a time.

    One that was changed after it may have been imported before that: it has no hash, and so no build that
    it had a part in is used again. `began_ns` is in nanoseconds since 1970.
    """
    return {
        f"{_SETTING}{name}": _sha256(Path(file)) if _changed_ns(Path(file)) < began_ns else _CHANGED
        for name, file in sorted(modules.items())
    }


def are_same(settings: Mapping[str, Scalar], factory: str) -> bool:
    """Whether the modules that a manifest tells of would be imported again; none is executed for that.

    `factory` is the function that the build names, beside whose file modules are looked for first.
    """
    wanted = {
        name.removeprefix(_SETTING): told for name, told in settings.items() if name.startswith(_SETTING)
    }
    if not wanted:
        return True
    importlib.invalidate_caches()
    search = list(_search(factory))
    return all(_sha256(_place(name, search)) == told for name, told in wanted.items())


def _search(factory: str) -> Iterator[str]:
    """Yield the folders that modules are looked for in where a source is opened."""
    program = factory.rpartition(":")[0]
    if program.endswith(".py"):
        yield str(Path(program).absolute().parent)
    here = str(Path.cwd())
    yield from (place for place in sys.path if place not in ("", here))
    yield here


def _place(name: str, search: Sequence[str]) -> Path | None:
    spec: ModuleSpec | None = None
    places: Sequence[str] = search
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:count]), places)
        places = list(spec.submodule_search_locations or ()) if spec else ()
    return Path(spec.origin) if spec and spec.origin else None


def _spec(name: str, places: Sequence[str]) -> ModuleSpec | None:
    """Return where a module is; projects that are installed as they lie have finders of their own."""
    if (found := PathFinder.find_spec(name, places)) or "." in name:
        return found
    specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    return next((spec for spec in specs if spec), None)


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return sys.maxsize


def _sha256(file: Path | None) -> str:
    """Return the hash of a file; "" where it cannot be read any more."""
    if file is None:
        return ""
    try:
        files.check(file)
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (ModelFileError, OSError):
        return ""
