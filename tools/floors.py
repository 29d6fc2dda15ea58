"""Print the lowest version of each package that pyproject.toml promises to work with, as pip's requirements.

Arguments: the extras that are looked at beside the dependencies.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

_FLOOR = re.compile(r"([\w-]+)>=([\w.]+)")


def floors(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Return `package==version` for each requirement with a floor; those without one name our own extras."""
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    found = map(_FLOOR.match, requirements)
    return [f"{match[1]}=={match[2]}" for match in found if match]


if __name__ == "__main__":
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    print(*floors(tomllib.loads(text)["project"], sys.argv[1:]))
