"""Prints what a library of NVIDIA's has, as JSON: python tensorrt_names.py MODULE

For each class its names, each with what pybind11 tells of it. In a process of its own, since several of these
libraries in one would each bring the same types.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys


def names(module: str) -> dict[str, dict[str, str]]:
    library = importlib.import_module(module)
    return {
        name: {each: str(getattr(kind, each).__doc__ or "") for each in dir(kind)}
        for name, kind in vars(library).items()
        if inspect.isclass(kind)
    }


if __name__ == "__main__":
    print(json.dumps(names(sys.argv[1])))
