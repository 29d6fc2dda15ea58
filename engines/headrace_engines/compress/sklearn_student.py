"""Students that scikit-learn trains: perceptrons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPRegressor

from headrace_engines.compress.scaling import Scaling, flat
from headrace_engines.compress.steps import Distil
from headrace_engines.compress.students import Layer
from headrace_engines.progress import Progress


def train(
    inputs: list[NDArray[Any]], sums: NDArray[np.float32], how: Distil, progress: Progress
) -> list[Layer]:
    """Return the layers of a perceptron that adds up, for each row of the inputs, to its row of `sums`.

    The same rows give the same layers.
    """
    rows = flat(inputs)
    given, wanted = Scaling.of(rows), Scaling.of(sums)
    perceptron = MLPRegressor(
        hidden_layer_sizes=(how.hidden,) * how.layers, batch_size=how.batch, random_state=how.seed
    )
    lessons, answers = given.scaled(rows), wanted.scaled(sums)
    if answers.shape[1] == 1:
        answers = answers.ravel()  # as scikit-learn wants a single column
    for epoch in range(how.epochs):
        progress("training a student", epoch / how.epochs)
        perceptron.partial_fit(lessons, answers)
    made = [
        Layer(weights.astype(np.float32), bias.astype(np.float32))
        for weights, bias in zip(perceptron.coefs_, perceptron.intercepts_, strict=True)
    ]
    return wanted.after(given.before(made))
