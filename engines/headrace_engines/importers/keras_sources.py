"""Models of Keras 2 and 3 and a SavedModel's signature as the same thing: a function of named tensors."""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from headrace_engines.errors import EngineError, ModelFileError, UnsupportedModelError, UntrustedSource
from headrace_engines.importers import exported, keras_files
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.keras_files import KerasFile
from headrace_engines.importers.reasons import brief

_SIGNATURE: Final = "serving_default"
_UNKNOWN_CLASS: Final = re.compile(
    r"Could not locate (?:class|function) '([^']+)'|Unknown [\w ]+: '?([\w.>]+)'?"
)
_KERAS_2: Final = "tf_keras"


Answer = Callable[..., Mapping[str, Any]]
"""Takes a tensor for each input, and answers tensors by name."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of a model: its class, the frameworks with their versions, how many parameters it has."""

    name: str
    framework: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Source:
    """A model as one function of TensorFlow.

    `inputs` have a batch of any size. `outputs` are the names of what `call` answers, in the model's own
    order. `model` is kept because its variables would be gone with it.
    """

    facts: Facts
    inputs: tuple[tf.TensorSpec, ...]
    outputs: tuple[str, ...]
    call: Answer
    model: Any


def opened(path: Path, options: ImportOptions) -> Source:
    """Open a .keras or .h5 file or a SavedModel's folder for inference.

    Raises UntrustedSource where that would execute code that nobody allowed, ModelFileError for what is
    damaged, UnsupportedModelError for what lacks something, by name and with what to do.
    """
    if path.is_dir():
        return _saved_model(path, options)
    file = keras_files.read(path)
    code = file.code()
    if code and not options.is_trusted:
        raise UntrustedSource(
            f"{path.name}: {', '.join(code)} in it is code that its author wrote: allow it with --trust if "
            "you know where it comes from, or save the model with layers of Keras in its place"
        )
    return _keras(_loaded(file, options), options)


def _loaded(file: KerasFile, options: ImportOptions) -> Any:
    load = _reader(file)
    try:
        with tempfile.TemporaryDirectory() as folder:  # Keras goes by the file's name
            named = Path(folder) / ("model.h5" if file.is_hdf5 else "model.keras")
            named.symlink_to(file.path.absolute())
            return load(named, compile=False, safe_mode=not options.is_trusted)
    except Exception as error:  # Keras raises whatever its layers raise
        raise _why_not_loaded(file, str(load.__module__), error) from error


def _reader(file: KerasFile) -> Callable[..., Any]:
    """Return what loads the file: Keras 3, or the Keras 2 that TensorFlow keeps, for files of that."""
    if file.is_of_keras_2 and importlib.util.find_spec(_KERAS_2):
        models = importlib.import_module(_KERAS_2).models
    else:
        keras = importlib.import_module("keras")
        models = keras.saving
        if keras.backend.backend() != "tensorflow":
            raise UnsupportedModelError(
                f"Keras is set to the backend {keras.backend.backend()}: set it to tensorflow (KERAS_BACKEND)"
            )
    load: Callable[..., Any] = models.load_model
    return load


def _why_not_loaded(file: KerasFile, reader: str, error: Exception) -> EngineError:
    if unknown := _UNKNOWN_CLASS.search(str(error)):
        name = unknown[1] or unknown[2]
        return UnsupportedModelError(
            f"{file.path.name}: it uses {name}, which is no part of Keras, and the file has no code of it: "
            "where that code is, store the model as a SavedModel with model.export('folder'), and build "
            "that folder"
        )
    if file.is_of_keras_2 and not reader.startswith(_KERAS_2):
        return UnsupportedModelError(
            f"{file.path.name}: Keras {file.version} wrote it, and Keras 3 does not read all of it; install "
            f"the Keras 2 of your TensorFlow: pip install --no-deps tf-keras=={tf.__version__} "
            f"({brief(error)})"
        )
    return ModelFileError(f"{file.path.name}: it cannot be read as a model of Keras: {brief(error)}")


def _keras(model: Any, options: ImportOptions) -> Source:
    if not model.inputs:
        raise UnsupportedModelError(
            f"{model.name} was stored before it was called, so that its inputs are not known: give it a "
            "keras.Input, or call it once, and save it again"
        )
    structure = getattr(model, "input", None)  # a Sequential may not know it
    names = sorted(structure) if isinstance(structure, Mapping) else [each.name for each in model.inputs]
    inputs = tuple(
        _input(name, tensor.shape, tensor.dtype, options)
        for name, tensor in zip(names, model.inputs, strict=True)
    )
    layers = list(getattr(model, "output_names", None) or [model.layers[-1].name])

    def call(*tensors: Any) -> Mapping[str, Any]:
        given = tensors[0] if structure is None else tf.nest.pack_sequence_as(structure, tensors)
        answer = model(given, training=False)
        if isinstance(answer, Mapping):
            return dict(zip(exported.unlike(answer, names), answer.values(), strict=True))
        return dict(zip(exported.unlike(layers, names), tf.nest.flatten(answer), strict=True))

    package = sys.modules[type(model).__module__.partition(".")[0]]
    facts = Facts(
        type(model).__name__,
        f"Keras {package.__version__}, TensorFlow {tf.__version__}",
        model.count_params(),
    )
    return _traced(facts, inputs, call, model)


def _saved_model(path: Path, options: ImportOptions) -> Source:
    if not options.is_trusted:
        raise UntrustedSource(
            f"{path.name}: a SavedModel is a program, which can read and write files: allow it with --trust "
            "if you know where it comes from"
        )
    try:
        model = tf.saved_model.load(str(path))
    except Exception as error:  # of TensorFlow's many
        raise ModelFileError(f"{path.name}: it cannot be read as a SavedModel: {brief(error)}") from error
    signature = _signature(path, model.signatures)
    positional, named = signature.structured_input_signature
    inputs = tuple(_input(name, spec.shape, spec.dtype, options) for name, spec in named.items())
    if positional or not inputs:
        raise UnsupportedModelError(f"{path.name}: its signature takes no tensors by name")
    taken = list(named)

    def call(*tensors: Any) -> Mapping[str, Any]:
        answer = signature(**dict(zip(taken, tensors, strict=True)))
        return dict(zip(exported.unlike(answer, taken), answer.values(), strict=True))

    parameters = sum(int(tf.size(each)) for each in signature.variables)
    facts = Facts("SavedModel", f"TensorFlow {tf.__version__}", parameters)
    return _traced(facts, inputs, call, model)


def _signature(path: Path, signatures: Mapping[str, Any]) -> Any:
    if _SIGNATURE in signatures:
        return signatures[_SIGNATURE]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    found = ", ".join(sorted(signatures)) or "none"
    raise UnsupportedModelError(
        f"{path.name}: it has no signature {_SIGNATURE!r} (found: {found}): store it with "
        f"model.export('folder'), or with tf.saved_model.save(..., signatures={{{_SIGNATURE!r}: function}})"
    )


def _input(name: str, shape: Any, dtype: Any, options: ImportOptions) -> tf.TensorSpec:
    """Return what a tensor is like in batches of any size; options fill in dims that it leaves open."""
    given = options.input_shapes.get(name)
    if shape is None or getattr(shape, "rank", 1) is None:
        if given is None:
            raise UnsupportedModelError(
                f"the input {name!r} takes any shape: say what one row is like: --input {name}:float32:10"
            )
        dims: Sequence[int | None] = given
    else:
        batch, *dims = tuple(shape) or (0,)
        if batch is not None:
            raise UnsupportedModelError(
                f"the input {name!r} takes {batch} rows and no other number: save the model with None as "
                "the first dim"
            )
        if given is not None:
            dims = given
    return tf.TensorSpec((None, *(None if dim == -1 else dim for dim in dims)), dtype, name=name)


def _traced(facts: Facts, inputs: tuple[tf.TensorSpec, ...], answer: Answer, model: Any) -> Source:
    """Make one function of a model, and learn its outputs' names from what it answers."""
    names: list[str] = []

    def call(*tensors: Any) -> Mapping[str, Any]:
        answered = answer(*tensors)
        names[:] = answered
        return {name: tf.identity(tensor) for name, tensor in answered.items()}

    function = tf.function(call, input_signature=inputs, autograph=False)
    try:
        concrete = function.get_concrete_function()
    except Exception as error:  # whatever the layers raise
        shapes = ", ".join(f"{each.name} {tuple(each.shape)}" for each in inputs)
        raise UnsupportedModelError(f"{facts.name} does not take {shapes}: {brief(error)}") from error
    _check_batch(facts.name, concrete.structured_outputs)
    return Source(facts, inputs, tuple(names), function, model)


def _check_batch(model: str, outputs: Mapping[str, Any]) -> None:
    for name, tensor in outputs.items():
        if tensor.shape.rank == 0 or (tensor.shape.rank and tensor.shape[0] is not None):
            raise UnsupportedModelError(
                f"the output {name!r} of {model} is {tuple(tensor.shape)}, without a row on its first axis "
                "for each row that comes: leave it out"
            )
