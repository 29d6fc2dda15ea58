"""Architectures: what PyTorch answers, and what its ONNX answers to the same rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from side_by_side import assert_same_answers, converted

from headrace_engines.importers.importer import Importer, ImportOptions

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytest.importorskip("onnxscript", reason="needs the extra `torch`")

import torch_networks  # noqa: E402  it needs what the lines above look for

from headrace_engines.importers import torch as torch_importer  # noqa: E402  likewise

pytestmark = pytest.mark.frameworks

nn = torch.nn
_random = np.random.default_rng(0)
Shapes = Mapping[str, tuple[int, ...]]


def floats(*shape: int) -> NDArray[np.float32]:
    return _random.standard_normal(shape).astype(np.float32)


def imported(folder: Path, module: Any, shapes: Shapes, dtypes: Mapping[str, str] | None = None) -> Importer:
    """Save a whole module and open it again."""
    path = folder / "model.pt"
    torch.save(module, path)
    options = ImportOptions(input_shapes=shapes, input_dtypes=dtypes or {}, is_trusted=True)
    return torch_importer.open_source(path, options)


@dataclass(frozen=True)
class Case:
    make: Callable[[], Any]
    rows: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, list[int | str]]
    dtypes: Mapping[str, str] = field(default_factory=dict)


CASES = {
    "an MLP 100-50-10": Case(torch_networks.mlp, {"features": floats(70, 100)}, {"output": ["batch", 10]}),
    "a CNN with batch normalisation and a shortcut": Case(
        torch_networks.cnn, {"image": floats(9, 1, 8, 8)}, {"output": ["batch", 10]}
    ),
    "a transformer's encoder": Case(
        torch_networks.encoder,
        {
            "tokens": _random.integers(50, size=(9, 6)),
            "mask": (np.arange(6) < _random.integers(1, 7, (9, 1))).astype(np.float32),
        },
        {"logits": ["batch", 3], "hidden": ["batch", 6, 16]},
        {"tokens": "int64"},
    ),
    "an LSTM beside a GRU": Case(
        torch_networks.recurrent,
        {"steps": floats(9, 5, 4), "scale": floats(9, 1)},
        {"steps_output": ["batch", 5, 3], "level": ["batch", 1]},
    ),
    "an argument that may be left out": Case(
        torch_networks.recurrent,
        {"steps": floats(9, 5, 4), "scale": floats(9, 1), "shift": floats(9, 5, 3)},
        {"steps_output": ["batch", 5, 3], "level": ["batch", 1]},
    ),
    "a tuple": Case(
        torch_networks.tied, {"x": floats(9, 5)}, {"output_0": ["batch", 5], "output_1": ["batch", 5]}
    ),
    "weights of 64 bits": Case(
        lambda: torch_networks.mlp().double(), {"features": floats(3, 100)}, {"output": ["batch", 10]}
    ),
    "one row": Case(torch_networks.mlp, {"features": floats(1, 100)}, {"output": ["batch", 10]}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_onnx_answers_as_the_module_does(case: Case, tmp_path: Path) -> None:
    shapes = {name: array.shape[1:] for name, array in case.rows.items()}
    importer = imported(tmp_path, case.make(), shapes, case.dtypes)
    path = tmp_path / "model.onnx"
    tensors = converted(importer, path)
    assert tensors.inputs == {name: ["batch", *dims] for name, dims in shapes.items()}
    assert tensors.outputs == case.outputs
    assert_same_answers(importer, path, case.rows)


def trained(module: Any, rows: NDArray[np.float32], labels: NDArray[np.int64], steps: int) -> Any:
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(torch.tensor(rows)), torch.tensor(labels)).backward()
        optimiser.step()
    return module.eval()


def test_a_three_to_two_network_trained_with_cross_entropy(tmp_path: Path) -> None:
    rows = floats(200, 3)
    labels = (rows.sum(1) > 0).astype(np.int64)
    torch.manual_seed(0)
    module = trained(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), rows, labels, 60)
    importer = imported(tmp_path, module, {"input": (3,)})
    path = tmp_path / "model.onnx"
    assert converted(importer, path).inputs == {"input": ["batch", 3]}
    assert_same_answers(importer, path, {"input": rows})
    (logits,) = importer.answers({"input": rows})
    assert (logits.argmax(1) == labels).mean() > 0.95


def test_real_pictures_of_digits(tmp_path: Path) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    module = trained(torch_networks.cnn().train(), images[:400], digits.target[:400], 80)
    importer = imported(tmp_path, module, {"image": (1, 8, 8)})
    path = tmp_path / "model.onnx"
    converted(importer, path)
    assert_same_answers(importer, path, {"image": images[400:700]})
    (logits,) = importer.answers({"image": images[400:700]})
    assert (logits.argmax(1) == digits.target[400:700]).mean() > 0.8


def test_a_module_in_training_is_evaluated(tmp_path: Path) -> None:
    importer = imported(tmp_path, torch_networks.mlp().train(), {"features": (100,)})
    rows = {"features": floats(4, 100)}
    assert (importer.answers(rows)[0] == importer.answers(rows)[0]).all()


def test_a_sequence_of_any_length(tmp_path: Path) -> None:
    shapes = {"tokens": (-1,), "mask": (-1,)}
    importer = imported(tmp_path, torch_networks.encoder(), shapes, {"tokens": "int64"})
    path = tmp_path / "model.onnx"
    tensors = converted(importer, path)
    assert isinstance(tensors.inputs["tokens"][1], str)
    for length in (3, 11):
        tokens = _random.integers(50, size=(4, length))
        assert_same_answers(importer, path, {"tokens": tokens, "mask": np.ones((4, length), np.float32)})


def test_the_same_file_becomes_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one.onnx", "two.onnx"):
        importer = imported(tmp_path, torch_networks.cnn(), {"image": (1, 8, 8)})
        importer.convert(tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert b"/" + Path(__file__).name.encode() not in contents[0]  # where the module was written
    assert str(Path(sys.prefix)).encode() not in contents[0]


def test_facts_are_the_class_the_framework_and_the_parameters(tmp_path: Path) -> None:
    importer = imported(tmp_path, torch_networks.mlp(), {"features": (100,)})
    assert importer.facts == {
        "class": "Mlp",
        "framework": f"PyTorch {torch.__version__}",
        "parameters": 100 * 50 + 50 + 50 * 10 + 10,
    }


@pytest.mark.parametrize(("asked", "written"), [(17, 18), (18, 18), (20, 20)])
def test_the_opset_is_the_first_that_suits(asked: int, written: int, tmp_path: Path) -> None:
    torch.save(torch_networks.mlp(), tmp_path / "model.pt")
    options = ImportOptions(input_shapes={"features": (100,)}, opset=asked, is_trusted=True)
    torch_importer.open_source(tmp_path / "model.pt", options).convert(tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == written
