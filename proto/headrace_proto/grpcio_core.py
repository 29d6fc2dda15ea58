"""Whether the installed grpcio is one whose private parts were tried, and still has what is used of them.

Nothing is called to find out: names and signatures are compared, and the version.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Final

TRIED: Final = (1, 85)


def why_not(
    version: str, module: ModuleType, *, names: Collection[str], signatures: Mapping[str, tuple[str, ...]]
) -> str | None:
    """Return why grpcio as it is should be left alone, or None.

    `names` are what a module of it has to have, `signatures` the names of the arguments that its functions
    have to take.
    """
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if found != TRIED:
        return f"grpcio {version} is installed, it was tried with {'.'.join(map(str, TRIED))}"
    for name in names:
        if _find(module, name) is None:
            return f"grpcio {version} has no {name}"
    for name, expected in signatures.items():
        function = _find(module, name)
        if function is None:
            return f"grpcio {version} has no {name}"
        came = _parameters(function)
        if came != expected:
            return f"grpcio {version} has {name}({', '.join(came)}), ({', '.join(expected)}) was expected"
    return None


def _find(module: ModuleType, name: str) -> object | None:
    found: object | None = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _parameters(function: object) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)  # type: ignore[arg-type]  # that is the question
    except (TypeError, ValueError):
        return ("no signature",)
