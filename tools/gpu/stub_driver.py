"""Write a libcuda.so to link against where there is no driver: stub_driver.py LIBRARY HEADER...

It has every function that the headers declare, each of which answers CUDA_ERROR_STUB_LIBRARY. With its
folder in LD_LIBRARY_PATH, pycuda can be imported where there is no driver.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_DECLARED: Final = re.compile(r"CUDAAPI\s+(cu[A-Z]\w+)\s*\(")
_RENAMED: Final = re.compile(r"#\s*define\s+cu\w+\s+(cu[A-Z]\w+_v\d+)\b")
_TEXTS: Final = ("cuGetErrorString", "cuGetErrorName")
"""These are read back, so they have to give a text."""
_STUB_LIBRARY: Final = 34


def source(headers: list[str]) -> str:
    """Return the library's source, in C."""
    names = {name for text in headers for found in (_DECLARED, _RENAMED) for name in found.findall(text)}
    texts = [f'int {name}(int e, const char **p) {{ if (p) *p = "no driver"; return 0; }}' for name in _TEXTS]
    others = [f"int {name}(void) {{ return {_STUB_LIBRARY}; }}" for name in sorted(names - {*_TEXTS})]
    return "\n".join((*texts, *others, ""))


def main() -> None:
    """Compile it."""
    library = Path(sys.argv[1])
    code = library.with_suffix(".c")
    code.write_text(source([Path(header).read_text() for header in sys.argv[2:]]))
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-fno-builtin", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", str(library), str(code)], check=True)
    code.unlink()


if __name__ == "__main__":
    main()
