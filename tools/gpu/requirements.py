"""Print what a server needs besides NumPy and ONNX Runtime, as pip's requirements, a line each.

The versions are those that the completion queue was tried with; Triton's client is left out.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

_EXTRAS: Final = ("server", "fast", "conformance")
_BESIDE: Final = ("nvidia-ml-py",)
_WITHOUT: Final = re.compile(r"numpy\b|tritonclient\b|headrace\b")


def main() -> None:
    """Read pyproject.toml and print."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    wanted = [*project["dependencies"], *_BESIDE]
    for extra in _EXTRAS:
        wanted += project["optional-dependencies"][extra]
    for requirement in wanted:
        if not _WITHOUT.match(requirement):
            print(requirement.partition(";")[0])


if __name__ == "__main__":
    main()
