"""Imports the code of a version folder so that nothing else notices.

Each loading of a folder is a package of its own, under a name that was never used before: two versions
of a model have each their `model` and their `tokens` beside it, and changed code is read anew. What the
code has beside it is imported relatively (`from .tokens import split`). `sys.path` belongs to the whole
process and stays as it is. Compiled code is neither read nor written: its files are told apart by the
second, and the folder may be watched for changes.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import re
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType

_serials = itertools.count(1)
_installing = threading.Lock()


class _SourceLoader(SourceFileLoader):
    """Compiles the source at each import."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _Finder(MetaPathFinder):
    """Finds what stands in the packages that were made here, and nothing else."""

    def __init__(self) -> None:
        self._packages: set[str] = set()

    def add(self, package: str) -> None:
        self._packages.add(package)

    def remove(self, package: str) -> None:
        self._packages.discard(package)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or fullname.partition(".")[0] not in self._packages:
            return None
        loaders = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (_SourceLoader, SOURCE_SUFFIXES))
        found = (FileFinder(folder, *loaders).find_spec(fullname) for folder in path)
        return next((spec for spec in found if spec is not None), None)


_finder = _Finder()


def import_file(path: Path, label: str) -> ModuleType:
    """Execute a file as a module of a new package, whose folder is the file's, and return the module.

    `label` begins the package's name, and so the names of its loggers. Raises whatever the code raises.
    """
    with _installing:
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
    name = f"{re.sub(r'[^0-9A-Za-z_-]', '_', label)}-{next(_serials)}"
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(path.parent)]
    package = sys.modules[name] = importlib.util.module_from_spec(spec)
    _finder.add(name)
    try:
        return importlib.import_module(f"{name}.{path.stem}")
    except BaseException:
        forget(package)
        raise


def forget(module: ModuleType) -> None:
    """Let go of the module's package and of all that was imported from its folder."""
    name = module.__name__.partition(".")[0]
    _finder.remove(name)
    for known in [known for known in list(sys.modules) if known == name or known.startswith(f"{name}.")]:
        del sys.modules[known]
