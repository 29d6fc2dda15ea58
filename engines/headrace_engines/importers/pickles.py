"""What pickles are of, told by the names in them: they are read as a list of operations, and not executed.

A file may be a pickle, or joblib's, which puts arrays between the operations and may be compressed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickletools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from headrace_engines.errors import ModelFileError, UnsupportedModelError
from headrace_engines.importers.kinds import Finding, Kind

_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ": "xz",
    b"\x5d\x00\x00": "lzma",
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}

_LEGACY_TORCH: Final = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_LEGACY_TORCH_PICKLES: Final = 4
_STOP: Final = b"."
_PROTOCOLS: Final = range(2, 6)
_MODULE: Final = re.compile(r"[A-Za-z_][\w.]*")
_FIRST_BYTES: Final = 1 << 16
_TAR_AT: Final = 257

_OPENERS: Final[Mapping[str, Callable[[Path], Any]]] = {
    "gzip": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
    "lzma": lzma.open,
}

_PLUMBING: Final = frozenset(
    {
        "__builtin__",
        "__main__",
        "_codecs",
        "builtins",
        "cloudpickle",
        "collections",
        "copy_reg",
        "copyreg",
        "dill",
    }
    | {"_dill", "functools", "joblib", "types"}
)
"""Modules of which a pickle names something whatever it is of."""
_DATA: Final = frozenset({"numpy", "pandas", "polars", "pyarrow", "scipy", "datetime", "decimal"})
_REFUSED: Final = {
    "keras": "a pickled Keras model: save it with model.save('model.keras')",
    "tensorflow": "a pickled TensorFlow object: save the model with model.save('model.keras')",
    "catboost": "a pickled CatBoost model: save it with save_model('model.onnx', format='onnx')",
}
_KINDS: Final = {"torch": Kind.TORCH, "xgboost": Kind.XGBOOST, "lightgbm": Kind.LIGHTGBM}
_WEIGHTS: Final = {
    "collections": ("OrderedDict", "defaultdict"),
    "torch._utils": ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"),
    "torch.storage": ("UntypedStorage", "TypedStorage"),
    "torch.serialization": ("_get_layout",),
    "torch.nn.parameter": ("Parameter",),
    "torch": ("Size", "device"),
}
_DTYPES: Final = frozenset(
    ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
)
_TEXT_STARTS: Final = (b"c", b"(", b"]", b"}", b"l", b"d", b"i")
"""How pickles of the oldest protocols begin."""


def finding(path: Path, start: bytes) -> Finding | None:
    """Return what a file's pickle is of; None if it is none. `start` is how the file begins.

    Raises ModelFileError if it is cut short, UnsupportedModelError if it holds no model that is read.
    """
    if start[2:].startswith(_LEGACY_TORCH):
        with path.open("rb") as file:
            names = [name for _ in range(_LEGACY_TORCH_PICKLES) for name in globals_of(file)]
        return torch_finding(names, "PyTorch file")
    if method := compression(start):
        return _compressed(path, method)
    with path.open("rb") as file:
        file.seek(-1, io.SEEK_END)
        is_ended = file.read() == _STOP
        file.seek(0)
        if not _is_pickle(start, is_ended=is_ended):
            return None
        if not is_ended:
            raise ModelFileError(f"{path.name}: a pickle without an end: the file was cut short")
        return _told(path, globals_of(file), "pickle")


def compression(start: bytes) -> str:
    """Return by what method a file is compressed that begins like this; "" if by none that is known."""
    return next((method for magic, method in _COMPRESSED.items() if start.startswith(magic)), "")


def torch_finding(names: Iterable[tuple[str, str]], label: str) -> Finding:
    """Return what a PyTorch file is whose pickles look up these names: weights alone execute nothing."""
    are_weights = all(_is_weights(module, name) for module, name in names)
    return Finding(Kind.TORCH, f"{label} of weights" if are_weights else label, runs_code=not are_weights)


def globals_of(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Yield the modules and names that one pickle looks up, up to its end or to what is no operation."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    latest = ""
    operations = pickletools.genops(stream)
    while True:
        try:
            operation, argument, _ = next(operations)
        except (StopIteration, ValueError, IndexError, OverflowError, UnicodeError):
            return
        match operation.name:
            case "GLOBAL" | "INST":
                module, _, name = str(argument).partition(" ")
                yield module, name
            case "STACK_GLOBAL":
                yield (texts[-2], texts[-1]) if len(texts) > 1 else ("", "")
            case "MEMOIZE":
                memo[len(memo)] = latest
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[_number(argument)] = latest
            case "GET" | "BINGET" | "LONG_BINGET":
                texts.append(memo.get(_number(argument), ""))
            case _ if isinstance(argument, str):
                texts.append(argument)
        latest = argument if isinstance(argument, str) else ""


def _number(argument: object) -> int:
    return int(argument) if isinstance(argument, int | str) else -1


def _is_weights(module: str, name: str) -> bool:
    if module == "torch" and (name.endswith("Storage") or name in _DTYPES):
        return True
    return name in _WEIGHTS.get(module, ())


def _is_pickle(start: bytes, *, is_ended: bool) -> bool:
    """Tell a pickle; one of the oldest protocols, which are text, by its first name and its end."""
    if start[:1] == b"\x80":
        return len(start) > 1 and start[1] in _PROTOCOLS
    if not is_ended or start[:1] not in _TEXT_STARTS:
        return False
    first = next(globals_of(io.BytesIO(start)), None)
    return first is not None and _MODULE.fullmatch(first[0]) is not None


def _compressed(path: Path, method: str) -> Finding:
    try:
        head = _head(path, method)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ModelFileError(f"{path.name}: compressed with {method}, and damaged or cut short") from error
    if head[_TAR_AT:].startswith(b"ustar"):
        raise UnsupportedModelError(f"{path.name}: a compressed tar archive: unpack it first")
    if not _is_pickle(head, is_ended=head.endswith(_STOP)):
        raise UnsupportedModelError(
            f"{path.name}: compressed with {method}, and no joblib file: unpack it first"
        )
    return _told(path, globals_of(io.BytesIO(head)), "joblib file")


def _head(path: Path, method: str) -> bytes:
    """Return the first bytes of what is compressed in a file."""
    if method == "zlib":
        with path.open("rb") as file:
            return zlib.decompressobj().decompress(file.read(_FIRST_BYTES), _FIRST_BYTES)
    with _OPENERS[method](path) as content:
        head: bytes = content.read(_FIRST_BYTES)
        return head


def _told(path: Path, names: Iterable[tuple[str, str]], label: str) -> Finding:
    """Return what a pickle is of: the first module that it names and that is neither plumbing nor data."""
    seen: set[str] = set()
    for module, _ in names:
        package = module.partition(".")[0]
        if refusal := _REFUSED.get(package):
            raise UnsupportedModelError(f"{path.name}: {refusal}")
        if package not in _PLUMBING and package not in _DATA:
            kind = _KINDS.get(package, Kind.SCIKIT_LEARN)
            is_known = package in _KINDS or package == "sklearn"
            return Finding(kind, f"{kind.value} {label}" if is_known else label, runs_code=True)
        seen.add(package)
    if "__main__" in seen:
        return Finding(Kind.SCIKIT_LEARN, label, runs_code=True)
    content = "arrays or tables" if seen & _DATA else "plain values"
    raise UnsupportedModelError(f"{path.name}: a {label} of {content}, and no model")
