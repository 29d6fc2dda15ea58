"""The ways in which PyTorch models are stored, and what is said of those that cannot be opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from side_by_side import assert_same_answers, converted

from headrace_engines.errors import (
    EngineError,
    InputError,
    ModelFileError,
    UnsupportedModelError,
    UntrustedSource,
)
from headrace_engines.importers import formats
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.session import import_session

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytest.importorskip("onnxscript", reason="needs the extra `torch`")

import torch_networks  # noqa: E402  it needs what the lines above look for

from headrace_engines.importers import torch as torch_importer  # noqa: E402  likewise
from headrace_engines.importers import torch_sources  # noqa: E402  likewise

pytestmark = pytest.mark.frameworks

Write = Callable[[Path], None]
NETWORKS = Path(torch_networks.__file__)
IMAGE = torch.zeros(1, 1, 8, 8)
CNN = ImportOptions(factory=f"{NETWORKS}:cnn", input_shapes={"image": (1, 8, 8)})
ROWS = {"image": np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)}


def cnn() -> Any:
    return torch_networks.cnn()


def exported() -> Any:
    images = IMAGE.repeat(2, 1, 1, 1)
    return torch.export.export(cnn(), (images,), dynamic_shapes={"image": {0: torch.export.Dim("n")}})


def save_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(cnn().state_dict(), path)


WEIGHTS: Mapping[str, Write] = {
    "a state_dict": lambda path: torch.save(cnn().state_dict(), path),
    "a state_dict of the first format": lambda path: torch.save(
        cnn().state_dict(), path, _use_new_zipfile_serialization=False
    ),
    "a training's checkpoint": lambda path: torch.save({"epoch": 3, "state_dict": cnn().state_dict()}, path),
    "weights of DataParallel": lambda path: torch.save(torch.nn.DataParallel(cnn()).state_dict(), path),
    "weights of a compiled module": lambda path: torch.save(
        {f"_orig_mod.{name}": weight for name, weight in cnn().state_dict().items()}, path
    ),
    "weights of 16 bits": lambda path: torch.save(cnn().half().state_dict(), path),
    "safetensors": save_safetensors,
}


@pytest.mark.parametrize("write", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weights_are_put_into_the_factorys_module_without_trust(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "model.bin")
    module = torch_sources.opened(tmp_path / "model.bin", CNN)
    with torch.inference_mode():
        expected, given = (each(torch.tensor(ROWS["image"])) for each in (cnn(), module.eval()))
    assert torch.allclose(given, expected, atol=0.01)  # of which those of 16 bits make use


PROGRAMS: Mapping[str, tuple[Write, ImportOptions]] = {
    "a scripted module": (
        lambda path: torch.jit.script(cnn()).save(path),
        ImportOptions(input_shapes={"image": (1, 8, 8)}, is_trusted=True),
    ),
    "a traced module": (
        lambda path: torch.jit.trace(cnn(), IMAGE).save(path),
        ImportOptions(input_shapes={"image": (1, 8, 8)}, is_trusted=True),
    ),
    "a program of any batch": (
        lambda path: torch.export.save(exported(), path),
        ImportOptions(is_trusted=True),
    ),
    "a program of one row": (
        lambda path: torch.export.save(torch.export.export(cnn(), (IMAGE,)), path),
        ImportOptions(is_trusted=True),
    ),
    "safetensors": (save_safetensors, CNN),
    "a module in DataParallel": (
        lambda path: torch.save(torch.nn.DataParallel(cnn()), path),
        ImportOptions(input_shapes={"image": (1, 8, 8)}, is_trusted=True),
    ),
}


@pytest.mark.parametrize(("write", "options"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_the_onnx_answers_as_what_was_stored(write: Write, options: ImportOptions, tmp_path: Path) -> None:
    stored = tmp_path / "model.pt2"
    write(stored)
    importer = torch_importer.open_source(stored, options)
    tensors = converted(importer, tmp_path / "model.onnx")
    assert tensors.inputs == {"image": ["batch", 1, 8, 8]}
    assert tensors.outputs == {"output": ["batch", 10]}
    assert_same_answers(importer, tmp_path / "model.onnx", ROWS)
    assert importer.facts["parameters"] == sum(each.numel() for each in cnn().parameters())


class Branching(torch.nn.Module):
    """Decides by values, as only a scripted module can."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        high = x * 2 if bool(x.sum() > 0) else x - 1
        return {"high": high, "low": x * 3}


def test_a_scripted_module_keeps_its_branches(tmp_path: Path) -> None:
    torch.jit.script(Branching()).save(tmp_path / "model.pt")
    options = ImportOptions(input_shapes={"x": (3,)}, is_trusted=True)
    importer = torch_importer.open_source(tmp_path / "model.pt", options)
    assert converted(importer, tmp_path / "model.onnx").outputs.keys() == {"high", "low"}
    for sign in (1, -1):
        rows = {"x": np.array([[1, 2, 3]], np.float32) * sign}
        assert_same_answers(importer, tmp_path / "model.onnx", rows)


def test_weights_that_are_another_s_too_are_stored_once(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    save_model(torch_networks.tied(), tmp_path / "model.safetensors")
    options = ImportOptions(factory=f"{NETWORKS}:tied", input_shapes={"x": (5,)})
    module = torch_sources.opened(tmp_path / "model.safetensors", options)
    assert torch.equal(module.two.weight, torch_networks.tied().one.weight)


def test_a_whole_module_is_opened_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import networks_of_mine

    torch.save(networks_of_mine.mlp(), tmp_path / "model.pt")
    options = ImportOptions(input_shapes={"features": (100,)})
    rows = {"features": np.random.default_rng(0).standard_normal((5, 100)).astype(np.float32)}
    found = formats.detect(tmp_path / "model.pt")
    with import_session(tmp_path / "model.pt", found, options, is_trusted=True) as session:
        session.convert(tmp_path / "model.onnx")
        assert session.facts["class"] == "Mlp"
        assert_same_answers(session, tmp_path / "model.onnx", rows)


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


class Fixed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(2, -1)[:, :3]


class Columns(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"rows": x, "columns": x.T}


class Decomposed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x)[1]


def module(made: Any, *, is_trusted: bool = True, **shapes: tuple[int, ...]) -> tuple[Write, ImportOptions]:
    return lambda path: torch.save(made, path), ImportOptions(input_shapes=shapes, is_trusted=is_trusted)


def weights(factory: str) -> tuple[Write, ImportOptions]:
    options = ImportOptions(factory=factory, input_shapes={"image": (1, 8, 8)})
    return lambda path: torch.save(cnn().state_dict(), path), options


def written(contents: bytes) -> tuple[Write, ImportOptions]:
    return lambda path: path.write_bytes(contents) and None, ImportOptions(is_trusted=True)


def half(path: Path) -> None:
    torch.save(cnn(), path)
    path.write_bytes(path.read_bytes()[:4000])


def trained(path: Path) -> None:
    torch.export.save(torch.export.export(cnn().train(), (IMAGE.repeat(2, 1, 1, 1),)), path)


Unsupported = UnsupportedModelError

REFUSED: Mapping[str, tuple[tuple[Write, ImportOptions], type[EngineError], str]] = {
    "code, unless it is allowed": (
        module({"a": Evil()}, is_trusted=False),
        UntrustedSource,
        r"getattr.*--trust",
    ),
    "a module, unless it is allowed": (
        module(cnn(), is_trusted=False),
        UntrustedSource,
        "torch_networks.Cnn",
    ),
    "a program, unless it is allowed": (
        (lambda path: torch.export.save(exported(), path), ImportOptions()),
        UntrustedSource,
        "torch.export program.*--trust",
    ),
    "a module whose shapes are not known": (
        module(torch_networks.mlp()),
        Unsupported,
        "--input features:float32:100",
    ),
    "a shape of no input": (
        module(torch_networks.mlp(), feature=(100,)),
        Unsupported,
        "takes no 'feature'; it takes features",
    ),
    "a shape that does not fit": (
        module(torch_networks.mlp(), features=(7,)),
        Unsupported,
        r"features: float32 \[2, 7\].*mat1 and mat2",
    ),
    "a shape of no sizes": (
        module(torch_networks.mlp(), features=(0,)),
        Unsupported,
        r"'features' cannot have dims \[0\]",
    ),
    "floats for indices": (
        module(torch_networks.encoder(), tokens=(4,), mask=(4,)),
        Unsupported,
        "--input tokens:int64",
    ),
    "a fixed number of rows": (module(Fixed(), x=(4,)), Unsupported, "fixes a dimension"),
    "a decision by values": (module(Branching(), x=(4,)), Unsupported, "torch.jit.script"),
    "an output without rows": (
        module(Columns(), x=(4,)),
        Unsupported,
        r"'columns' of Columns is \[4, batch\]",
    ),
    "an operator that ONNX lacks": (
        module(Decomposed(), x=(4, 4)),
        Unsupported,
        "no operator for aten._linalg_svd",
    ),
    "a program in training": (
        (trained, ImportOptions(is_trusted=True)),
        Unsupported,
        r"training mode \(aten.batch_norm.default\): call module.eval\(\)",
    ),
    "weights without a factory": (
        (WEIGHTS["a state_dict"], ImportOptions()),
        Unsupported,
        "weights without their module.*first.0.weight.*--factory",
    ),
    "a factory of another module": (
        weights(f"{NETWORKS}:mlp"),
        Unsupported,
        "not those of Mlp.*Missing key.*layers.0.weight",
    ),
    "a factory that is not there": (
        weights(f"{NETWORKS}:nothing"),
        Unsupported,
        "no function 'nothing'",
    ),
    "a factory of a file that is not there": (
        weights("none.py:cnn"),
        Unsupported,
        "none.py cannot be",
    ),
    "no factory's name": (weights("cnn"), Unsupported, "file.py:function"),
    "a factory that raises": (
        weights(f"{NETWORKS}:raises"),
        Unsupported,
        "RuntimeError: out of order",
    ),
    "a factory of something else": (weights(f"{NETWORKS}:no_module"), Unsupported, "returned int"),
    "a factory for a whole module": (
        (lambda path: torch.save(cnn(), path), ImportOptions(factory="a:b", is_trusted=True)),
        Unsupported,
        "leave out --factory",
    ),
    "a pickle of something else": (module([1, 2]), Unsupported, "it holds list"),
    "half of a file": ((half, ImportOptions(is_trusted=True)), ModelFileError, "cut off"),
    "a picture": (written(b"\x89PNG\r\n" + bytes(100)), Unsupported, "none of PyTorch's formats"),
    "safetensors that are cut off": (
        written(b"\x40\0\0\0\0\0\0\0{" + bytes(9)),
        ModelFileError,
        "safetensors file",
    ),
}


@pytest.mark.parametrize(("source", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_opened_is_told_with_what_to_do(
    source: tuple[Write, ImportOptions],
    kind: type[EngineError],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, options = source
    path = tmp_path / "model.pt"
    write(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as raised:
        torch_importer.open_source(path, options).convert(tmp_path / "model.onnx")
    assert type(raised.value) is kind
    assert re.search(words, str(raised.value)), raised.value
    assert "\n" not in str(raised.value)
    assert {each.name for each in tmp_path.iterdir()} == {"model.pt"}


def test_a_module_whose_code_is_gone_is_told_what_to_save_instead(tmp_path: Path) -> None:
    torch.save(Fixed(), tmp_path / "model.pt")
    contents = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(contents.replace(b"Fixed", b"Faxed"))
    with pytest.raises(
        (UnsupportedModelError, ModelFileError), match=r"state_dict\(\).*--factory|cannot be read"
    ):
        torch_sources.opened(tmp_path / "model.pt", ImportOptions(is_trusted=True))


def test_rows_that_the_module_does_not_take_are_the_callers_fault(tmp_path: Path) -> None:
    torch.save(torch_networks.encoder(), tmp_path / "model.pt")
    options = ImportOptions(
        input_shapes={"tokens": (4,), "mask": (4,)}, input_dtypes={"tokens": "int64"}, is_trusted=True
    )
    importer = torch_importer.open_source(tmp_path / "model.pt", options)
    with pytest.raises(InputError, match="index out of range"):
        importer.answers({"tokens": np.full((2, 4), 50), "mask": np.ones((2, 4), np.float32)})
