from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_engines import manifest
from headrace_engines.errors import ModelFileError
from headrace_engines.manifest import Artefact, Manifest, Recipe
from headrace_engines.spec import ANY, TensorSpec

_EXAMPLE = Manifest(
    source=Recipe("digits", {"seed": 2, "layers": "512-512", "share": 0.4}),
    recipes=(Recipe("fp32", {}), Recipe("int8-cpu", {"quantised_bias": True})),
    data={"train": "ab"},
    tools={"onnx": "1.23"},
    inputs=(TensorSpec("image", np.dtype(np.float32), (64,)),),
    outputs=(TensorSpec("probabilities", np.dtype(np.float32), (10,)),),
    artefacts=(
        Artefact("model.onnx", "fp32", "cpu", "0" * 64, 3, True, "as trained"),
        Artefact("model.int8-cpu.onnx", "int8-cpu", "cpu", "f" * 64, 1, False, "not better"),
        Artefact("model.dynamic.onnx", "dynamic", "cpu", "", 0, False, "does not fit", 1),
    ),
    gates={"metric": "accuracy", "max_loss": 0.01},
    made_up=True,
    weights={"model.onnx.data": "a" * 64},
)

_NAMES = st.text(min_size=1)
_SCALARS = st.one_of(_NAMES, st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
_RECIPES = st.builds(Recipe, _NAMES, st.dictionaries(_NAMES, _SCALARS))
_DTYPES = st.sampled_from(["bool", "uint8", "int64", "float16", "float32", ml_dtypes.bfloat16, "object"])
_TENSORS = st.builds(
    TensorSpec,
    _NAMES,
    _DTYPES.map(np.dtype),
    st.lists(st.integers(min_value=ANY, max_value=2**40), max_size=4).map(tuple),
)
_ARTEFACTS = st.builds(
    Artefact,
    st.from_regex(r"model(\.[a-z0-9-]{1,9})?\.onnx", fullmatch=True),
    _NAMES,
    _NAMES,
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.integers(min_value=0),
    st.booleans(),
    _NAMES,
    st.integers(min_value=0),
)
_MANIFESTS = st.builds(
    Manifest,
    _RECIPES,
    st.lists(_RECIPES, max_size=2).map(tuple),
    st.dictionaries(_NAMES, _NAMES, max_size=2),
    st.dictionaries(_NAMES, _NAMES, max_size=2),
    st.lists(_TENSORS, max_size=2).map(tuple),
    st.lists(_TENSORS, max_size=2).map(tuple),
    st.lists(_ARTEFACTS, max_size=2).map(tuple),
    st.dictionaries(_NAMES, _SCALARS, max_size=2),
    st.booleans(),
)


@given(_MANIFESTS)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, written: Manifest) -> None:
    folder = tmp_path_factory.mktemp("version")
    (folder / "manifest.json").write_bytes(written.to_bytes())
    assert manifest.read(folder) == written


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) is None


def test_bytes_do_not_depend_on_the_order_of_settings() -> None:
    again = Manifest(
        **{name: getattr(_EXAMPLE, name) for name in Manifest.__slots__}
        | {"source": Recipe("digits", {"share": 0.4, "layers": "512-512", "seed": 2})}
    )
    assert again.to_bytes() == _EXAMPLE.to_bytes()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda it: it.pop("tools"), "field 'tools' is missing"),
        (lambda it: it.update(format_version=9), "format_version is 9"),
        (lambda it: it.update(colour="red"), "unknown field 'colour'"),
        (lambda it: it["source"].update(extra=1), r"unknown field 'source\.extra'"),
        (lambda it: it["recipes"][1].pop("settings"), r"field 'recipes\[1\]\.settings' is missing"),
        (lambda it: it["inputs"][0].update(dtype="float33"), r"field 'inputs\[0\]\.dtype': expected one of"),
        (lambda it: it["outputs"][0].update(dims=[1.5]), r"field 'outputs\[0\]\.dims'"),
        (lambda it: it["inputs"][0].update(dims=[-2]), r"field 'inputs\[0\]\.dims': expected .*, got \[-2\]"),
        (lambda it: it["artefacts"][0].update(passed="yes"), r"field 'artefacts\[0\]\.passed'"),
        (lambda it: it["artefacts"][0].update(size_bytes=-1), r"field 'artefacts\[0\]\.size_bytes'"),
        (lambda it: it["artefacts"][1].update(sha256="abc"), r"field 'artefacts\[1\]\.sha256'"),
        (lambda it: it["artefacts"][0].update(sha256=""), r"field 'artefacts\[0\]\.sha256'"),
        (lambda it: it["artefacts"][0].update(max_rows=-1), r"field 'artefacts\[0\]\.max_rows'"),
        (lambda it: it.update(weights={"../w": "0" * 64}), r"field 'weights': expected names of files here"),
        (lambda it: it.update(weights={"w": "0"}), r"field 'weights': expected names of files here"),
        (lambda it: it.update(made_up=1), "field 'made_up': expected true or false"),
        (lambda it: it["artefacts"][0].update(file="../model.onnx"), r"field 'artefacts\[0\]\.file'"),
        (lambda it: it["artefacts"][0].update(file="/etc/passwd"), r"field 'artefacts\[0\]\.file'"),
        (lambda it: it["artefacts"][0].update(file=".."), r"field 'artefacts\[0\]\.file'"),
        (lambda it: it["artefacts"][0].update(file=""), r"field 'artefacts\[0\]\.file'"),
    ],
)
def test_damage_is_refused_and_the_field_named(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    document = json.loads(_EXAMPLE.to_bytes())
    damage(document)
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ModelFileError, match=complaint):
        manifest.read(tmp_path)


def test_an_artefact_is_known_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights")
    artefact = manifest.artefact_of(file, "fp32", "cpu", "as trained")
    assert artefact.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert artefact.size_bytes == 7
    manifest.verify(tmp_path, artefact)
    file.write_bytes(b"weightz")
    with pytest.raises(ModelFileError, match=r"not the file that manifest\.json describes"):
        manifest.verify(tmp_path, artefact)
    file.unlink()
    with pytest.raises(ModelFileError, match="no such file"):
        manifest.verify(tmp_path, artefact)


def test_files_of_weights_are_known_by_their_hashes(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).write_bytes(name.encode())
    artefact = manifest.artefact_of(tmp_path / "model.onnx", "fp32", "cpu", "as trained")
    described = replace(_EXAMPLE, weights=manifest.weights_in(tmp_path, [artefact]))
    assert list(described.weights) == ["model.onnx.data"]
    manifest.verify_weights(tmp_path, described)
    (tmp_path / "model.onnx.data").write_bytes(b"other")
    with pytest.raises(
        ModelFileError, match=r"^model\.onnx\.data: not the file that manifest\.json describes"
    ):
        manifest.verify_weights(tmp_path, described)
