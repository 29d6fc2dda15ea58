"""Makes the models that are tried on a GPU: `python -m bench.gpu_check.make_cases FOLDER`; needs no GPU.

Every network is compressed by Headrace's own recipes for TensorRT, and a plan is built of each. With
TensorRT for RTX that takes a minute or two; the plans then run on any GPU that it supports.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.gpu_check import networks
from bench.gpu_check.cases import NETWORKS, RECIPES, ROWS, SIZES, model_name, varied
from bench.models import INPUT, OUTPUT, Network
from headrace_engines import manifest
from headrace_engines.compress import recipes
from headrace_engines.compress.make import compress
from headrace_engines.manifest import FP32, Artefact, Manifest, Recipe, artefact_of
from headrace_engines.planned import plans
from headrace_engines.progress import Stages
from headrace_engines.spec import TensorSpec

_CALIBRATION_ROWS: Final = 256
_LARGE_ROW: Final = 1 << 16
_FEW_ROWS: Final = 16
"""To calibrate with where a row has more numbers than that: a network of this size takes a second a row."""
_HELD_OUT: Final = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the models that are named, or all; the exit code is 1 if a plan is missing in the end."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check.make_cases", description=__doc__)
    parser.add_argument("folder", type=Path, help="a model repository, made anew")
    parser.add_argument("--models", default=",".join(NETWORKS), help="default: all")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="default: all")
    given = parser.parse_args(arguments)
    missing = []
    for name in given.models.split(","):
        begun = time.monotonic()
        made = make(NETWORKS[name], given.folder, given.recipes.split(","))
        missing += [one for one in made if not one.passed]
        for one in made:
            print(f"{name}/{one.file}: {one.size_bytes:,} bytes {'' if one.passed else one.reason}")
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if missing else 0


def make(network: Network, repository: Path, wanted: Sequence[str]) -> list[Artefact]:
    """Write a model's folder, and return what stands in it. Raises UnsupportedModelError for a bad recipe."""
    folder = repository / network.name / "1"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    model, calibration = _network(network, folder.parent)
    onnx.save(model, folder / model_name(FP32))
    models = [artefact_of(folder / model_name(FP32), FP32, recipes.CPU, "the model as it was trained")]
    made_by = [Recipe(FP32, {})]
    for name in wanted:
        if name != FP32:
            how = recipes.RECIPES[name]
            compress(how, folder / model_name(FP32), folder / model_name(name), {INPUT: calibration})
            models.append(artefact_of(folder / model_name(name), name, recipes.TENSORRT, "to be tried"))
            made_by.append(how.recipe)
    chosen = [one for one in models if one.recipe in wanted]
    stages = Stages(lambda step, fraction: None)
    planned = plans(folder, chosen, SIZES, caches=repository / ".caches", stages=stages, fraction=1.0)
    if planned.warning:
        print(planned.warning, file=sys.stderr)
    artefacts = (*models, *planned.artefacts)
    whole = Manifest(
        source=Recipe("gpu-check", {"network": network.name}),
        recipes=(*made_by, *planned.recipes),
        data={},
        tools={"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        inputs=(TensorSpec(INPUT, np.dtype(np.float32), network.shape),),
        outputs=(TensorSpec(OUTPUT, np.dtype(np.float32), (network.classes,)),),
        artefacts=artefacts,
        made_up=True,
    )
    (folder / manifest.FILE_NAME).write_bytes(whole.to_bytes())
    return list(artefacts)


def _network(network: Network, folder: Path) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """Return a model and rows to calibrate it with; real rows for trying it are kept in the folder."""
    if not network.name.startswith("digits"):
        few = _FEW_ROWS if np.prod(network.shape) > _LARGE_ROW else _CALIBRATION_ROWS
        model = (
            networks.resnet50(network.shape, network.classes)
            if network.name == "resnet50"
            else networks.wide_perceptron(network.widths)
        )
        return model, varied(network, few)
    images, labels = _digits(network.shape)
    np.savez_compressed(folder / ROWS, rows=images[:_HELD_OUT], labels=labels[:_HELD_OUT])
    train = slice(_HELD_OUT, None)
    make_model = _mlp if len(network.shape) == 1 else _cnn
    with threadpool_limits(1):  # so small are the matrices that more threads only wait for each other
        model = make_model(network, images[train], labels[train])
    return model, images[train][:_CALIBRATION_ROWS]


def _digits(shape: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order] / 16).astype(np.float32).reshape(-1, *shape), labels[order].astype(np.int64)


def _mlp(network: Network, images: NDArray[np.float32], labels: NDArray[np.int64]) -> onnx.ModelProto:
    from sklearn.neural_network import MLPClassifier

    hidden = network.widths[1:-1]
    trained = MLPClassifier(hidden, max_iter=200, tol=1e-3, random_state=0).fit(images, labels)
    return networks.perceptron(trained.coefs_, trained.intercepts_)


def _cnn(network: Network, images: NDArray[np.float32], labels: NDArray[np.int64]) -> onnx.ModelProto:
    """Train the last layer alone, on what random convolutions make of the scans: that suffices for digits."""
    from sklearn.linear_model import LogisticRegression

    graph, flat = networks.features(network.shape)
    random = graph.model(flat, network.widths[0]).SerializeToString()
    session = onnxruntime.InferenceSession(random, providers=["CPUExecutionProvider"])
    (seen,) = session.run([OUTPUT], {INPUT: images})
    trained = LogisticRegression(max_iter=300).fit(seen, labels)
    graph, flat = networks.features(network.shape)
    weights = np.ascontiguousarray(trained.coef_.T, np.float32)
    answer = graph.add("Gemm", flat, weights, trained.intercept_.astype(np.float32))
    return graph.model(answer, network.classes)


if __name__ == "__main__":
    sys.exit(main())
