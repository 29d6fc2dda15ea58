"""The first model: scanned digits that come with scikit-learn, and a perceptron that reads them.

1,797 scans by 43 people, 8 x 8 pixels of 0 to 16. 40 % are held out: with 719 rows, INT8 may be wrong
on seven more of them than FP32 and the interval around the drop still lies under the gate's limit;
with a tenth of the scans a single one would already decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_engines.documents import Scalar
from headrace_engines.manifest import Recipe
from headrace_engines.progress import Stages
from headrace_engines.rows import Rows, data_hash
from headrace_engines.source import Prepared, Source

INPUT = "image"
OUTPUT = "probabilities"

_SEED = 2
_CLASSES = 10
_HELD_OUT_SHARE = 0.4
_CALIBRATION_PER_CLASS = 20
_HIDDEN = (512, 512)
_BATCH = 32
_TOLERANCE = 1e-3
_PATIENCE = 5
_MAX_EPOCHS = 100


@dataclass(frozen=True, slots=True)
class Samples:
    """Scans with what they show: images FP32 (rows, 64), pixels of 0 to 16, and labels (rows,)."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Splits:
    """The three parts of the scans, none of which shares a scan with another."""

    train: Samples
    calibration: Samples
    held_out: Samples


def held_out() -> Samples:
    """Return the scans that the model never saw: what its accuracy is measured on."""
    return splits().held_out


def splits() -> Splits:
    """Divide the scans at random, class by class, in the same way each time."""
    from sklearn.datasets import load_digits  # a second of importing that a cached build does without

    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(_SEED)
    parts: tuple[list[NDArray[Any]], ...] = ([], [], [])
    for digit in range(_CLASSES):
        rows = random.permutation(np.flatnonzero(labels == digit))
        held = round(len(rows) * _HELD_OUT_SHARE)
        for part, chosen in zip(parts, np.split(rows, [held, held + _CALIBRATION_PER_CLASS]), strict=True):
            part.append(chosen)
    held_out, calibration, train = (
        Samples(images[rows].astype(np.float32), labels[rows].astype(np.int64))
        for rows in (random.permutation(np.concatenate(part)) for part in parts)
    )
    return Splits(train, calibration, held_out)


def prepare(folder: Path, stages: Stages) -> Prepared:
    """Train the perceptron and convert it to ONNX; about three seconds on one core."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

    from headrace_engines.importers.sklearn import convert

    data = splits()
    classifier = MLPClassifier(
        _HIDDEN,
        batch_size=_BATCH,
        tol=_TOLERANCE,
        n_iter_no_change=_PATIENCE,
        max_iter=_MAX_EPOCHS,
        random_state=_SEED,
    )
    # On one thread, sums are in the same order whatever the number of cores.
    with stages("training", 0.0), threadpool_limits(1):
        estimator = make_pipeline(MaxAbsScaler(), classifier).fit(data.train.images, data.train.labels)
        expected = estimator.predict_proba(data.held_out.images)
    model = folder / "model.onnx"
    model.write_bytes(convert(estimator, input_name=INPUT, output_name=OUTPUT).SerializeToString())
    return Prepared(
        model=model,
        calibration={INPUT: data.calibration.images},
        held_out={INPUT: data.held_out.images},
        labels=data.held_out.labels,
        expected=(expected,),
        data={
            "train": data_hash(data.train.images, data.train.labels),
            "calibration": data_hash(data.calibration.images, data.calibration.labels),
            "held_out": data_hash(data.held_out.images, data.held_out.labels),
        },
    )


def _held_out(model: Path, facts: Mapping[str, Scalar]) -> Rows:
    return {INPUT: held_out().images}


SOURCE = Source(
    recipe=Recipe(
        name="digits",
        settings={
            "model": "sklearn.neural_network.MLPClassifier",
            "scaling": "sklearn.preprocessing.MaxAbsScaler",
            "hidden_layers": "-".join(map(str, _HIDDEN)),
            "batch_size": _BATCH,
            "tolerance": _TOLERANCE,
            "patience_epochs": _PATIENCE,
            "max_epochs": _MAX_EPOCHS,
            "held_out_share": _HELD_OUT_SHARE,
            "calibration_per_class": _CALIBRATION_PER_CLASS,
            "seed": _SEED,
        },
    ),
    tools=("scikit-learn", "scipy", "skl2onnx"),
    prepare=prepare,
    held_out=_held_out,
)
