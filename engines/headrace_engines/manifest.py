"""What stands in a version folder, and how it was made.

`manifest.json` lists the artefacts that `headrace build` wrote, with the hash of each, and
everything that made them: source, recipes, data and tools. Whoever repeats the build with the same
gets the same bytes, so nothing measured stands here (see `report`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np

from headrace_engines import files
from headrace_engines.documents import Fields, Scalar, dump
from headrace_engines.errors import ModelFileError
from headrace_engines.spec import ANY, TensorSpec

FILE_NAME = "manifest.json"
FORMAT_VERSION = 2

FP32 = "fp32"
"""The recipe of the model as it was trained: the artefact that every other one is compared with."""

_DTYPES = {
    str(dtype): dtype
    for dtype in map(
        np.dtype,
        ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
         "float16", "float32", "float64", ml_dtypes.bfloat16, "object"),
    )
}  # fmt: skip
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What was done, by name and with every setting that changes the outcome."""

    name: str
    settings: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file that can be executed.

    `target` says for what it was made: "cpu" or "tensorrt". `passed` says whether its answers are good
    enough to be served, and `reason` why, in one sentence; whether it is faster than FP32 is measured (see
    `standing`). The file of an artefact that did not pass is not kept; one that could not be made at all
    has no hash. `max_rows` are the most rows of a batch that it keeps apart, 0 for any number: what is
    quantised by scales of the moment serves alone.
    """

    file: str
    recipe: str
    target: str
    sha256: str
    size_bytes: int
    passed: bool
    reason: str
    max_rows: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of `manifest.json`.

    `data` holds the SHA-256 of each split, by its name; `tools` the version of each library that
    had a part in the bytes. `inputs` and `outputs` leave the batch axis out. `gates` are what the
    artefacts were judged by, with "judged": false where FP32 answers every row alike, so that nothing could
    be told of them. `made_up` says that there were no data, and noise took their place, so that likeness to
    FP32 was judged and no use of the model. The artefacts stand in the order in which they were made, the
    model as it was trained first.
    `weights` are the SHA-256 of files in which artefacts that are too large for one keep theirs, by name.
    """

    source: Recipe
    recipes: tuple[Recipe, ...]
    data: Mapping[str, str]
    tools: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    artefacts: tuple[Artefact, ...]
    gates: Mapping[str, Scalar] = field(default_factory=dict)
    made_up: bool = False
    weights: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the document; equal manifests are equal bytes."""
        return dump(
            {
                "format_version": FORMAT_VERSION,
                "source": asdict(self.source),
                "recipes": [asdict(recipe) for recipe in self.recipes],
                "data": dict(self.data),
                "tools": dict(self.tools),
                "inputs": [_tensor_document(tensor) for tensor in self.inputs],
                "outputs": [_tensor_document(tensor) for tensor in self.outputs],
                "artefacts": [asdict(artefact) for artefact in self.artefacts],
                "gates": dict(self.gates),
                "made_up": self.made_up,
                "weights": dict(self.weights),
            }
        )


def read(folder: Path) -> Manifest | None:
    """Read a version folder's manifest; None if it has none, as a model that nobody built has.

    Raises ModelFileError naming the field if it is damaged or of an unknown format_version.
    """
    fields = Fields.load(folder / FILE_NAME, FORMAT_VERSION)
    if fields is None:
        return None
    manifest = Manifest(
        source=_recipe(fields.record("source")),
        recipes=tuple(_recipe(item) for item in fields.records("recipes")),
        data=fields.texts("data"),
        tools=fields.texts("tools"),
        inputs=tuple(_tensor(item) for item in fields.records("inputs")),
        outputs=tuple(_tensor(item) for item in fields.records("outputs")),
        artefacts=tuple(_artefact(item) for item in fields.records("artefacts")),
        gates=fields.scalars("gates"),
        made_up=fields.flag("made_up"),
        weights=_weights(fields),
    )
    fields.end()
    return manifest


def artefact_of(path: Path, recipe: str, target: str, reason: str, max_rows: int = 0) -> Artefact:
    """Describe a file that passed its gates."""
    return Artefact(path.name, recipe, target, _sha256(path), path.stat().st_size, True, reason, max_rows)


def weights_in(folder: Path, artefacts: Iterable[Artefact]) -> dict[str, str]:
    """Return the hashes of the files in a folder that are no artefacts: what these keep their weights in."""
    named = {artefact.file for artefact in artefacts}
    others = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in named)
    return {path.name: _sha256(path) for path in others}


def verify(folder: Path, artefact: Artefact) -> None:
    """Raise ModelFileError unless the artefact's file is the one that the manifest describes."""
    verify_file(folder / artefact.file, artefact.sha256)


def verify_weights(folder: Path, described: Manifest) -> None:
    """Raise ModelFileError unless the files that artefacts keep weights in are those of the manifest."""
    for name, expected in described.weights.items():
        verify_file(folder / name, expected)


def damage(folder: Path, described: Manifest) -> Iterator[tuple[str, ModelFileError]]:
    """Yield the names of files that are not as the manifest describes them, with what is wrong."""
    kept = {artefact.file: artefact.sha256 for artefact in described.artefacts if artefact.passed}
    for name, expected in (kept | dict(described.weights)).items():
        try:
            verify_file(folder / name, expected)
        except ModelFileError as error:
            yield name, error


def verify_file(path: Path, expected: str) -> None:
    """Raise ModelFileError unless the file has this SHA-256."""
    files.check(path)
    try:
        found = _sha256(path)
    except OSError as error:
        raise files.unreadable(path, error) from error
    if found != expected:
        raise ModelFileError(
            f"{path.name}: not the file that {FILE_NAME} describes: "
            f"its SHA-256 is {found}, expected {expected}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recipe(fields: Fields) -> Recipe:
    recipe = Recipe(name=fields.text("name"), settings=fields.scalars("settings"))
    fields.end()
    return recipe


def _artefact(fields: Fields) -> Artefact:
    artefact = Artefact(
        file=fields.text("file"),
        recipe=fields.text("recipe"),
        target=fields.text("target"),
        sha256=fields.text("sha256"),
        size_bytes=fields.integer("size_bytes"),
        passed=fields.flag("passed"),
        reason=fields.text("reason"),
        max_rows=fields.integer("max_rows"),
    )
    if not _is_name(artefact.file):
        raise fields.wrong("file", repr(artefact.file), "the name of a file in the same folder")
    if not _SHA256.fullmatch(artefact.sha256) and (artefact.sha256 or artefact.passed):
        raise fields.wrong("sha256", repr(artefact.sha256), "64 hexadecimal digits")
    fields.end()
    return artefact


def _weights(fields: Fields) -> dict[str, str]:
    weights = fields.texts("weights")
    for name, sha256 in weights.items():
        if not _is_name(name) or not _SHA256.fullmatch(sha256):
            raise fields.wrong("weights", f"{name!r}: {sha256!r}", "names of files here, with their SHA-256")
    return weights


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _tensor(fields: Fields) -> TensorSpec:
    dtype = fields.text("dtype")
    if dtype not in _DTYPES:
        raise fields.wrong("dtype", repr(dtype), f"one of {', '.join(_DTYPES)}")
    dims = fields.integers("dims")
    if any(dim < ANY for dim in dims):
        raise fields.wrong("dims", str(list(dims)), f"sizes of 0 or more, or {ANY} for any")
    tensor = TensorSpec(name=fields.text("name"), dtype=_DTYPES[dtype], dims=dims)
    fields.end()
    return tensor


def _tensor_document(tensor: TensorSpec) -> dict[str, object]:
    return {"name": tensor.name, "dtype": str(tensor.dtype), "dims": list(tensor.dims)}
