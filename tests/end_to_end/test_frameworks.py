"""Models of PyTorch and Keras on their whole way: saved by their framework, built, served, called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_networks
import numpy as np
import pytest
from numpy.typing import NDArray
from server_process import ServerProcess

from headrace import Client
from headrace_cli.main import run

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
keras = pytest.importorskip("keras", reason="needs the extra `keras`")
datasets = pytest.importorskip("sklearn.datasets", reason="needs the extra `build`")

import torch_networks  # noqa: E402  it needs what is looked for above

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(300)]

NETWORKS = Path(torch_networks.__file__)
_random = np.random.default_rng(0)


@dataclass(frozen=True)
class Built:
    """A model in the repository, rows for it, and what its own framework answers to them."""

    rows: dict[str, NDArray[Any]]
    answers: dict[str, NDArray[Any]]


def build(source: Path, *options: str) -> None:
    repository, cache = source.parent / "models", source.parent / "cache"
    places = ["--into", str(repository), "--cache", str(cache)]
    assert run(["build", str(source), *options, *places]) == 0


def perceptron(folder: Path) -> Built:
    """100-50-10, as weights alone."""
    module = torch_networks.mlp()
    torch.save(module.state_dict(), folder / "perceptron.pt")
    options = ["--factory", f"{NETWORKS}:mlp", "--input", "features:float32:100"]
    build(folder / "perceptron.pt", *options)
    rows = _random.standard_normal((9, 100)).astype(np.float32)
    return Built({"features": rows}, {"output": module(torch.tensor(rows)).detach().numpy()})


def three_to_two(folder: Path) -> Built:
    """A network from three numbers to two classes, trained with cross-entropy, as a program."""
    rows = _random.standard_normal((400, 3)).astype(np.float32)
    labels = (rows.sum(1) > 0).astype(np.int64)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimiser = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(torch.tensor(rows)), torch.tensor(labels)).backward()
        optimiser.step()
    program = torch.export.export(module.eval(), (torch.tensor(rows[:1]),))
    torch.export.save(program, folder / "three_to_two.pt2")
    np.savez(folder / "three.npz", input=rows, label=labels)
    data = ["--data", str(folder / "three.npz"), "--labels", "label"]
    build(folder / "three_to_two.pt2", "--trust", *data)
    answers = module(torch.tensor(rows[:9])).detach().numpy()
    assert (answers.argmax(1) == labels[:9]).mean() > 0.8
    return Built({"input": rows[:9]}, {"output": answers})


def classifier(
    name: str, save: Callable[[Any, Path], None], output: str, *options: str
) -> Callable[[Path], Built]:
    """Return what builds a classifier of digits that Keras stored in one of its ways."""

    def make(folder: Path) -> Built:
        digits = datasets.load_digits()
        images = (digits.images[..., None] / 16).astype(np.float32)
        model = keras_networks.cnn(keras)
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        model.fit(images[:900], digits.target[:900], epochs=3, verbose=0)
        save(model, folder / name)
        np.savez(folder / "digits.npz", image=images[900:], label=digits.target[900:])
        data = ["--data", str(folder / "digits.npz"), "--labels", "label"]
        build(folder / name, *options, *data)
        return Built({"image": images[:9]}, {output: np.asarray(model(images[:9], training=False))})

    return make


MODELS: dict[str, Callable[[Path], Built]] = {
    "perceptron": perceptron,
    "three_to_two": three_to_two,
    "of_keras": classifier("of_keras.keras", lambda model, path: model.save(path), "probabilities"),
    "of_hdf5": classifier("of_hdf5.h5", lambda model, path: model.save(path), "probabilities"),
    "saved": classifier(
        "saved", lambda model, path: model.export(path, verbose=False), "output_0", "--trust"
    ),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Built]]:
    folder = tmp_path_factory.mktemp("built")
    return folder / "models", {name: make(folder) for name, make in MODELS.items()}


@pytest.fixture(scope="module")
def client(built: tuple[Path, dict[str, Built]]) -> Iterator[Client]:
    with ServerProcess(built[0]) as server, Client(server.ready()["grpc"]) as client:
        yield client


@pytest.mark.parametrize("name", MODELS)
def test_the_server_answers_as_the_framework_does(
    name: str, built: tuple[Path, dict[str, Built]], client: Client
) -> None:
    model = built[1][name]
    answers = client.infer(name, model.rows)
    assert answers.keys() == model.answers.keys()
    for output, expected in model.answers.items():
        assert (answers[output].argmax(1) == expected.argmax(1)).all()
        assert np.abs(answers[output] - expected).max() < 0.1 * np.ptp(expected), "an INT8 artefact may serve"
