"""Keras models and SavedModels: what they answer, and what their ONNX answers to the same rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_networks
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from side_by_side import assert_same_answers, converted

from headrace_engines.errors import (
    EngineError,
    InputError,
    ModelFileError,
    UnsupportedModelError,
    UntrustedSource,
)
from headrace_engines.importers import formats
from headrace_engines.importers.importer import Importer, ImportOptions
from headrace_engines.importers.session import import_session

tf = pytest.importorskip("tensorflow", reason="needs the extra `keras`")
keras = pytest.importorskip("keras", reason="needs the extra `keras`")
pytest.importorskip("tf2onnx", reason="needs the extra `keras`")

from headrace_engines.importers import keras as keras_importer  # noqa: E402  it needs what is looked for above
from headrace_engines.importers import keras_sources  # noqa: E402  likewise

pytestmark = pytest.mark.frameworks

TRUSTED = ImportOptions(is_trusted=True)
_random = np.random.default_rng(0)


def floats(*shape: int) -> NDArray[np.float32]:
    return _random.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    make: Callable[[Any], Any]
    rows: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, list[int | str]]


STEPS = {"steps": floats(70, 5, 4)}
CASES = {
    "mlp": Case(keras_networks.mlp, {"x": floats(9, 3)}, {"y": ["batch", 2]}),
    "cnn": Case(keras_networks.cnn, {"image": floats(9, 8, 8, 1)}, {"probabilities": ["batch", 10]}),
    "recurrent": Case(
        keras_networks.recurrent,
        STEPS | {"ids": _random.integers(20, size=(70, 3)).astype(np.int32)},
        {"kind": ["batch", 3], "level": ["batch", 1]},
    ),
    "gated": Case(keras_networks.gated, STEPS, {"hidden": ["batch", 5, 6], "last": ["batch", 2]}),
    "encoder": Case(keras_networks.encoder, {"x": floats(9, 6, 16)}, {"kind": ["batch", 4]}),
}


def save_h5(model: Any, path: Path) -> None:
    model.save(path.with_suffix(".h5"))
    path.with_suffix(".h5").rename(path)


def save_keras(model: Any, path: Path) -> None:
    model.save(path.with_suffix(".keras"))
    path.with_suffix(".keras").rename(path)


def export(model: Any, path: Path) -> None:
    model.export(path, verbose=False)


def assert_imported(importer: Importer, case: Case, folder: Path) -> None:
    tensors = converted(importer, folder / "model.onnx")
    assert tensors.inputs == {name: ["batch", *array.shape[1:]] for name, array in case.rows.items()}
    assert tensors.outputs == case.outputs
    assert_same_answers(importer, folder / "model.onnx", case.rows)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_keras_file_answers_as_its_onnx_does(case: Case, tmp_path: Path) -> None:
    save_keras(case.make(keras), tmp_path / "model")
    assert_imported(keras_importer.open_source(tmp_path / "model", ImportOptions()), case, tmp_path)


@pytest.mark.parametrize("name", ["cnn", "recurrent"])
def test_an_hdf5_file_answers_as_its_onnx_does(name: str, tmp_path: Path) -> None:
    save_h5(CASES[name].make(keras), tmp_path / "model")
    assert_imported(keras_importer.open_source(tmp_path / "model", ImportOptions()), CASES[name], tmp_path)


@pytest.mark.parametrize("save", [save_h5, save_keras])
@pytest.mark.parametrize("name", ["cnn", "recurrent"])
def test_a_file_of_keras_2_answers_as_its_onnx_does(
    name: str, save: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    keras_2 = pytest.importorskip("tf_keras", reason="needs pip install --no-deps tf-keras")
    save(CASES[name].make(keras_2), tmp_path / "model")
    importer = keras_importer.open_source(tmp_path / "model", ImportOptions())
    assert str(importer.facts["framework"]).startswith("Keras 2.")
    assert_imported(importer, CASES[name], tmp_path)


def test_where_keras_2_is_missing_keras_3_reads_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras_2 = pytest.importorskip("tf_keras", reason="needs pip install --no-deps tf-keras")
    monkeypatch.setattr(keras_sources, "_KERAS_2", "no_module_of_this_name")
    for name in ("cnn", "recurrent"):
        save_h5(CASES[name].make(keras_2), tmp_path / name)
    assert_imported(keras_importer.open_source(tmp_path / "cnn", ImportOptions()), CASES["cnn"], tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"Keras 2.* wrote it.*pip install --no-deps tf-keras=="):
        keras_importer.open_source(tmp_path / "recurrent", ImportOptions())


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("cnn", {"output_0": ["batch", 10]}),
        ("recurrent", {"kind": ["batch", 3], "level": ["batch", 1]}),
        ("encoder", {"output_0": ["batch", 4]}),
    ],
)
def test_a_saved_model_answers_as_its_onnx_does(
    name: str, outputs: dict[str, list[int | str]], tmp_path: Path
) -> None:
    """Its names are those of its signature."""
    case = CASES[name]
    export(case.make(keras), tmp_path / "model")
    importer = keras_importer.open_source(tmp_path / "model", TRUSTED)
    tensors = converted(importer, tmp_path / "model.onnx")
    assert tensors.inputs == {each: ["batch", *array.shape[1:]] for each, array in case.rows.items()}
    assert tensors.outputs == outputs
    assert_same_answers(importer, tmp_path / "model.onnx", case.rows)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one trained classifier of digits in all three formats."""
    folder = tmp_path_factory.mktemp("classifier")
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    model = keras_networks.cnn(keras)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(images[:600], digits.target[:600], epochs=6, verbose=0)
    save_keras(model, folder / "model.keras")
    save_h5(model, folder / "model.h5")
    export(model, folder / "model")
    np.save(folder / "images.npy", images[600:900])
    np.save(folder / "labels.npy", digits.target[600:900])
    return folder


@pytest.mark.parametrize("name", ["model.keras", "model"])
def test_real_pictures_of_digits(name: str, classifier: Path, tmp_path: Path) -> None:
    importer = keras_importer.open_source(classifier / name, TRUSTED)
    importer.convert(tmp_path / "model.onnx")
    assert_same_answers(importer, tmp_path / "model.onnx", {"image": np.load(classifier / "images.npy")})


def test_a_file_becomes_the_same_bytes_in_any_process(classifier: Path, tmp_path: Path) -> None:
    rows = {"image": np.load(classifier / "images.npy")}
    source = classifier / "model.h5"
    for name in ("one.onnx", "two.onnx"):
        with import_session(source, formats.detect(source), ImportOptions(), is_trusted=True) as session:
            session.convert(tmp_path / name)
            (answers,) = session.answers(rows)
            assert_same_answers(session, tmp_path / name, rows)
    assert (answers.argmax(1) == np.load(classifier / "labels.npy")).mean() > 0.8
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_convolutions_keep_few_transposes(classifier: Path, tmp_path: Path) -> None:
    keras_importer.open_source(classifier / "model.keras", ImportOptions()).convert(tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("Conv") == 1
    assert operators.count("Transpose") <= 1


def test_facts_and_opset(classifier: Path, tmp_path: Path) -> None:
    importer = keras_importer.open_source(classifier / "model.h5", ImportOptions())
    assert importer.facts == {
        "class": "Sequential",
        "framework": f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
        "parameters": 1402,
    }
    importer.convert(tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == 17


def test_rows_that_the_model_does_not_take_are_the_callers_fault(classifier: Path) -> None:
    importer = keras_importer.open_source(classifier / "model.keras", ImportOptions())
    with pytest.raises(InputError, match="does not take these rows"):
        importer.answers({"image": floats(2, 7, 7, 1)})


def with_own_layer(save: Callable[[Any, Path], None]) -> Callable[[Path], None]:
    """Return what writes a model with a layer that nobody knows afterwards."""

    class Own(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    def write(path: Path) -> None:
        keras.saving.register_keras_serializable("mine")(Own)
        save(of_layers(Own()), path)
        keras.saving.get_custom_objects().clear()

    return write


def of_layers(*layers: Any, shape: tuple[int, ...] = (4,), **options: Any) -> Any:
    return keras.Sequential([keras.Input(shape, name="x", **options), *layers])


class Module(tf.Module):
    """A function of TensorFlow that no layer is made of."""

    def __init__(self, function: Callable[[Any], Any], rows: int | None = None) -> None:
        super().__init__()
        spec = tf.TensorSpec((rows, 4), tf.float32, "x")
        self.function = tf.function(function, input_signature=[spec], autograph=False)

    def save(self, path: Path, signature: str = "serving_default") -> None:
        tf.saved_model.save(self, str(path), {signature: self.function, "second": self.function})


def half_of(save: Callable[[Any, Path], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save(keras_networks.mlp(keras), path)
        contents = path.read_bytes()
        path.write_bytes(contents[: len(contents) // 2])

    return write


def save_weights(path: Path) -> None:
    keras_networks.mlp(keras).save_weights(path.with_suffix(".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)


def half_of_a_saved_model(path: Path) -> None:
    export(keras_networks.mlp(keras), path)
    contents = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(contents[:200])


def twice() -> Any:
    return keras.layers.Lambda(lambda x: x * 2)


REFUSED: Mapping[str, tuple[Callable[[Path], None], ImportOptions, type[EngineError], str]] = {
    "a Lambda in .keras, unless it is allowed": (
        lambda path: save_keras(of_layers(twice()), path),
        ImportOptions(),
        UntrustedSource,
        "Lambda.* in it is code.*--trust",
    ),
    "a Lambda in .h5, unless it is allowed": (
        lambda path: save_h5(of_layers(twice()), path),
        ImportOptions(),
        UntrustedSource,
        "Lambda.* in it is code.*--trust",
    ),
    "a SavedModel, unless it is allowed": (
        lambda path: export(keras_networks.mlp(keras), path),
        ImportOptions(),
        UntrustedSource,
        "a SavedModel is a program.*--trust",
    ),
    "a layer of its own in .keras": (
        with_own_layer(save_keras),
        TRUSTED,
        UnsupportedModelError,
        r"uses .*Own, which is no part of Keras.*model.export\('folder'\)",
    ),
    "a layer of its own in .h5": (
        with_own_layer(save_h5),
        TRUSTED,
        UnsupportedModelError,
        r"uses .*Own, which is no part of Keras.*model.export\('folder'\)",
    ),
    "weights alone": (
        save_weights,
        TRUSTED,
        UnsupportedModelError,
        r"weights without the architecture.*model.save\('model.keras'\)",
    ),
    "half of a .keras": (half_of(save_keras), TRUSTED, ModelFileError, "cannot be read as a model of Keras"),
    "half of an .h5": (half_of(save_h5), TRUSTED, ModelFileError, "cannot be read as a model of Keras"),
    "half of a SavedModel": (
        half_of_a_saved_model,
        TRUSTED,
        ModelFileError,
        "cannot be read as a SavedModel",
    ),
    "signatures of other names": (
        lambda path: Module(tf.nn.relu).save(path, "first"),
        TRUSTED,
        UnsupportedModelError,
        r"no signature 'serving_default' \(found: first, second\)",
    ),
    "one number of rows": (
        lambda path: Module(lambda x: {"y": x * 2}, 3).save(path),
        TRUSTED,
        UnsupportedModelError,
        "'x' takes 3 rows and no other number",
    ),
    "an output without rows": (
        lambda path: Module(lambda x: {"y": tf.reduce_sum(x)}).save(path),
        TRUSTED,
        UnsupportedModelError,
        r"the output 'y' of SavedModel is \(\)",
    ),
    "an operator that ONNX lacks": (
        lambda path: Module(lambda x: {"y": tf.math.bessel_i0(x)}).save(path),
        TRUSTED,
        UnsupportedModelError,
        "no operator for TensorFlow's BesselI0",
    ),
}


@pytest.mark.parametrize(("write", "options", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_imported_is_told_with_what_to_do(
    write: Callable[[Path], None], options: ImportOptions, kind: type[EngineError], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    write(path)
    with pytest.raises(kind) as raised:
        keras_importer.open_source(path, options).convert(tmp_path / "model.onnx")
    assert type(raised.value) is kind
    assert re.search(words, str(raised.value)), raised.value
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "model.onnx").exists()


def test_a_lambda_that_is_allowed_is_converted(tmp_path: Path) -> None:
    save_keras(of_layers(twice()), tmp_path / "model")
    importer = keras_importer.open_source(tmp_path / "model", TRUSTED)
    converted(importer, tmp_path / "model.onnx")
    assert_same_answers(importer, tmp_path / "model.onnx", {"x": floats(3, 4)})


def test_one_input_in_a_dictionary_keeps_its_key(tmp_path: Path) -> None:
    x = keras.Input((4,), name="of_the_layer")
    save_keras(keras.Model({"x": x}, keras.layers.Dense(2, name="y")(x)), tmp_path / "model")
    importer = keras_importer.open_source(tmp_path / "model", ImportOptions())
    assert converted(importer, tmp_path / "model.onnx").inputs == {"x": ["batch", 4]}
    assert_same_answers(importer, tmp_path / "model.onnx", {"x": floats(3, 4)})


def test_dims_that_the_model_leaves_open_stay_so_unless_told(tmp_path: Path) -> None:
    layers = [keras.layers.Dense(3), keras.layers.GlobalMaxPooling1D(name="y")]
    save_keras(of_layers(*layers, shape=(None, 4)), tmp_path / "model")
    importer = keras_importer.open_source(tmp_path / "model", ImportOptions())
    assert isinstance(converted(importer, tmp_path / "open.onnx").inputs["x"][1], str)
    for length in (2, 9):
        assert_same_answers(importer, tmp_path / "open.onnx", {"x": floats(3, length, 4)})
    told = ImportOptions(input_shapes={"x": (9, 4)})
    importer = keras_importer.open_source(tmp_path / "model", told)
    assert converted(importer, tmp_path / "told.onnx").inputs == {"x": ["batch", 9, 4]}
