from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import present
from fake_machine import INT8_MODEL, plan_name, write_version

from headrace_engines.gates import Speed
from headrace_engines.manifest import Manifest, Recipe, artefact_of
from headrace_engines.report import Comparison, Report
from headrace_engines.spec import TensorSpec
from headrace_server.models.check import Checked, check
from headrace_server.models.versions import LoadOptions

PROGRAM = """
from headrace_engines.python_model import Tensor

class Model:
    inputs = [Tensor("x", "FP32", [2])]
    outputs = [Tensor("y", "FP32", [2])]

    def execute(self, batch):
        return {"y": batch["x"]}
"""


class Shelf:
    """A repository that models are put into."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self._model = model
        folder.mkdir()

    def put(self, name: str, config: str | None = None, version: str = "1", file: str = "model.onnx") -> Path:
        place = self.folder / name / version
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._model, place / file)
        if config is not None:
            (self.folder / name / "config.pbtxt").write_text(config)
        return self.folder / name

    def checked(self, *, allow_python: bool = False) -> Checked:
        return check([self.folder], LoadOptions(8, allow_python=allow_python))


@pytest.fixture
def shelf(models, tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "models", models.mlp())


def told(checked: Checked) -> list[tuple[str, int, str]]:
    return [
        (trouble.path.name, trouble.line, f"{trouble.text}; {trouble.suggestion}")
        for trouble in checked.troubles
    ]


def test_what_would_be_served_is_told(shelf: Shelf) -> None:
    shelf.put("a", "instance_group { count: 2 }")
    shelf.put("a", version="2")
    shelf.put("b", "version_policy { all { } }")
    shelf.put("b", version="3")
    seen: list[str] = []
    checked = check([shelf.folder], LoadOptions(8), seen.append)
    assert checked.troubles == ()
    assert [(one.model, one.version, one.instances) for one in checked.servable] == [
        ("a", "2", 2),
        ("b", "1", 1),
        ("b", "3", 1),
    ]
    assert seen == ["a version 2", "b version 1", "b version 3"]
    assert checked.servable[0].spec.max_batch_size == 8
    assert checked.servable[0].memory_bytes > 0


def test_all_problems_of_all_models_are_told_at_once(shelf: Shelf) -> None:
    shelf.put("bad", 'name: "b"\nmax_batch: 3\n')
    (shelf.put("broken") / "1" / "model.onnx").write_bytes(b"no model")
    shelf.put("good")
    shelf.put("unfit", 'input { name: "xx" }')
    shelf.put("cold", '\nmodel_warmup { inputs { key: "z" value { data_type: TYPE_FP32 zero_data: true } } }')
    checked = shelf.checked()
    assert [one.model for one in checked.servable] == ["good"]
    assert [(trouble.path.parent.name, trouble.line) for trouble in checked.troubles[:2]] == [
        ("bad", 1),
        ("bad", 2),
    ]
    places = [str(trouble.path.relative_to(shelf.folder)) for trouble in checked.troubles]
    assert (
        places
        == ["bad/config.pbtxt"] * 2 + ["broken/1"] + ["cold/config.pbtxt"] * 2 + ["unfit/config.pbtxt"] * 2
    )


FAULTY = """max_batch: 8
input {
  name: "x"
  data_type: TYPE_INT64
  dims: 4
}
output {
  name: "y"
  dims: 2
  label_filename: "no.txt"
}
instance_group { kind: GPU }
model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 input_data_file: "row" } } }
version_policy { specific { versions: [ 1, 5 ] } }
"""


def test_what_is_wrong_in_itself_and_for_the_model_is_told_at_once(shelf: Shelf) -> None:
    shelf.put("m", FAULTY)
    checked = shelf.checked()
    assert [(trouble.line, trouble.field, trouble.text) for trouble in checked.troubles] == [
        (1, "max_batch", "there is no such field"),
        (2, "input[0]", "'x': the model has FP32 [4], the configuration says INT64 [4]"),
        (7, "output[0]", "'y': the model has FP32 [3], the configuration says FP32 [2]"),
        (10, "output[0].label_filename", "no.txt: no such file"),
        (12, "instance_group[0].kind", "GPU is not one of KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL"),
        (13, 'model_warmup[0].inputs["x"].input_data_file', "row: no such file"),
        (14, "version_policy.specific.versions[1]", "there is no version 5"),
    ]
    assert {trouble.path for trouble in checked.troubles} == {shelf.folder / "m" / "config.pbtxt"}
    assert checked.servable == ()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("max_batch_size: x", "x is not a whole number; "),
        (
            'platform: "pytorch_libtorch"',
            "pytorch_libtorch is not supported; export the model to ONNX and say",
        ),
        ('default_model_filename: "best.onnx"', "found model.onnx; expected best.onnx; "),
        ("max_batch_size 8", "not protobuf's text format: ':' is expected after max_batch_size; "),
        ('input { name: "x" dims: 0 }', "0 came, 1 or more, or -1 for any size, expected; "),
        (
            'input { name: "x" dims: 5 }',
            "'x': the model has FP32 [4], the configuration says",
        ),
        ('input { name: "x" dims: 4 reshape { shape: 5 } }', "[4] does not have the elements of [5]; "),
        ('input { name: "x" reshape { shape: 4 } }', "the dims that callers see are missing; "),
        (
            'parameters { key: "intra_op_thread_count" value { string_value: "two" } }',
            "'two' came, 0 (a thread for each core) to 1024 expected; ",
        ),
        (
            "model_transaction_policy { decoupled: true }",
            "only a Python model answers a request other than once",
        ),
    ],
)
def test_a_fault_is_told_once(shelf: Shelf, config: str, expected: str) -> None:
    shelf.put("m", config)
    ((name, line, text),) = told(shelf.checked())
    assert (name, line) == ("config.pbtxt", 1)
    assert text.startswith(expected)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("v1/model.onnx",), ("m", "has no version; rename v1 to 1")),
        (("01/model.onnx",), ("m", "has no version; rename 01 to 1")),
        (("model.onnx",), ("m", "has no version; move model.onnx into ")),
        (("readme",), ("m", "has no version; a folder named 1, 2, … is expected")),
        (("1/model.onnx", "config.pbtext"), ("config.pbtext", "is not read; did you mean config.pbtxt?")),
        (("1/model.onnx", "warmups/x"), ("warmups", "is not read; did you mean warmup?")),
        (
            ("1/model.onnx", "9223372036854775808/model.onnx"),
            ("9223372036854775808", "is not read; the highest version is 9223372036854775807"),
        ),
    ],
)
def test_names_that_differ_are_told(
    models, tmp_path: Path, names: tuple[str, ...], expected: tuple[str, str]
) -> None:
    for name in names:
        place = tmp_path / "repository" / "m" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(models.mlp(), place)
    ((place_name, _, text),) = told(check([tmp_path / "repository"], LoadOptions()))
    assert place_name == expected[0]
    assert text.startswith(expected[1])


def test_folders_that_are_no_repositories_are_told_and_the_rest_is_checked(
    shelf: Shelf, tmp_path: Path
) -> None:
    model = shelf.put("m")
    (tmp_path / "empty").mkdir()
    checked = check([model, tmp_path / "empty", tmp_path / "nowhere", shelf.folder], LoadOptions())
    assert [one.model for one in checked.servable] == ["m"]
    found = {name: text for name, _, text in told(checked)}
    assert found["m"] == f"is a model, and no repository; name the folder that holds it: {shelf.folder}"
    assert found["empty"].startswith("holds no model")
    assert "no such folder" in found["nowhere"]


def test_a_name_in_two_repositories_is_told_once_and_neither_is_called_empty(
    shelf: Shelf, models, tmp_path: Path
) -> None:
    other = Shelf(tmp_path / "other", models.mlp())
    shelf.put("m")
    other.put("m")
    ((name, _, text),) = told(check([shelf.folder, other.folder], LoadOptions()))
    assert name == "m"
    assert (
        f"two repositories hold a model of this name, {shelf.folder / 'm'} and {other.folder / 'm'}" in text
    )


def test_a_program_is_loaded_only_where_that_is_allowed(shelf: Shelf) -> None:
    place = shelf.folder / "p" / "1"
    place.mkdir(parents=True)
    (place / "model.py").write_text(PROGRAM)
    ((_, _, text),) = told(shelf.checked())
    assert "only with --allow-python-models" in text
    checked = shelf.checked(allow_python=True)
    assert checked.troubles == ()
    assert checked.servable[0].platform == "python"


def test_what_is_wrong_for_every_version_is_told_once(shelf: Shelf) -> None:
    shelf.put("m", "version_policy { all { } }\nsequence_batching { }")
    shelf.put("m", version="2")
    assert len(shelf.checked().troubles) == 1


def test_links_that_lead_nowhere_and_names_that_cannot_be_told(shelf: Shelf) -> None:
    for link in ("gone", "m/1", "n/1/model.onnx"):
        (shelf.folder / link).parent.mkdir(parents=True, exist_ok=True)
        (shelf.folder / link).symlink_to(Path(link).name)
    (shelf.folder / "new\nline" / "1").mkdir(parents=True)
    assert told(shelf.checked()) == [
        ("gone", 0, f"{shelf.folder / 'gone'} cannot be read: Too many levels of symbolic links; "),
        ("1", 0, "the version's folder is gone, or a link that leads nowhere; expected model.onnx; "),
        ("1", 0, "model.onnx: cannot be read: too many levels of symbolic links; "),
        (
            "new\\nline",
            0,
            f"{shelf.folder}/new\\nline: its name has bytes that are no UTF-8, or control characters; ",
        ),
    ]


def _built(shelf: Shelf) -> Path:
    """Return a version as a build leaves it, whose artefact for the CPU is faster than FP32."""
    folder = shelf.put("m") / "1"
    shutil.copy(folder / "model.onnx", folder / "model.int8-cpu.onnx")
    described = Manifest(
        source=Recipe("test", {}),
        recipes=(),
        data={},
        tools={},
        inputs=(TensorSpec("x", np.dtype(np.float32), (4,)),),
        outputs=(TensorSpec("y", np.dtype(np.float32), (3,)),),
        artefacts=(
            artefact_of(folder / "model.onnx", "fp32", "cpu", "as trained"),
            artefact_of(folder / "model.int8-cpu.onnx", "int8-cpu", "cpu", "good"),
        ),
    )
    (folder / "manifest.json").write_bytes(described.to_bytes())
    faster = Comparison("int8-cpu", "cpu", True, "", 2, 1, None, {}, (Speed(1, 2.0, 1.0),))
    (folder / "report.json").write_bytes(Report((faster,), {}, {}).to_bytes())
    return folder


def _flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "file", "text", "served"),
    [
        (lambda built: _flipped(built / "model.onnx"), "model.onnx", "not the file", "model.int8-cpu.onnx"),
        (lambda built: (built / "model.onnx").unlink(), "model.onnx", "no such file", "model.int8-cpu.onnx"),
        (
            lambda built: _flipped(built / "model.int8-cpu.onnx"),
            "model.int8-cpu.onnx",
            "not the",
            "model.onnx",
        ),
        (lambda built: (built / "report.json").unlink(), "report.json", "report.json is", "model.onnx"),
        (lambda built: (built / "report.json").write_text("{"), "report.json", "not JSON", "model.onnx"),
    ],
    ids=["flipped", "gone", "chosen", "no-report", "cut-report"],
)
def test_what_was_built_is_compared_with_its_manifest_whether_it_is_chosen_or_not(
    shelf: Shelf, damage: Callable[[Path], object], file: str, text: str, served: str
) -> None:
    built = _built(shelf)
    assert shelf.checked().troubles == ()
    damage(built)
    checked = shelf.checked()
    assert [one.artefact for one in checked.servable] == [served]
    (trouble,) = checked.troubles
    assert trouble.path == built / file
    assert text in trouble.text


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_flipped, "not the file that manifest.json describes"),
        (lambda plan: plan.write_bytes(plan.read_bytes()[:-1]), "not the file that manifest.json describes"),
        (Path.unlink, "no such file"),
        (lambda plan: (plan.unlink(), plan.mkdir()), "not a regular file"),
    ],
    ids=["flipped", "cut", "gone", "folder"],
)
def test_plans_are_compared_with_their_manifest_without_a_gpu(
    models, tmp_path: Path, damage: Callable[[Path], object], text: str
) -> None:
    built = write_version(tmp_path / "models" / "m" / "1", models.adding(1))
    with present():
        assert check([tmp_path / "models"], LoadOptions()).troubles == ()
        damage(built / plan_name(INT8_MODEL))
        (trouble,) = check([tmp_path / "models"], LoadOptions()).troubles
    assert trouble.path == built / plan_name(INT8_MODEL)
    assert text in trouble.text


def test_what_may_not_be_read_is_told_of_whether_it_is_chosen_or_not(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = _built(shelf)
    original = Path.open

    def opened(path: Path, *arguments, **options):
        if path.name == "model.onnx":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    (trouble,) = shelf.checked().troubles
    assert (trouble.path, trouble.text) == (built / "model.onnx", "cannot be read: permission denied")


def test_damage_is_told_beside_what_is_not_as_it_was_declared(shelf: Shelf) -> None:
    built = _built(shelf)
    (built.parent / "config.pbtxt").write_text('max_batch_size: 4\ninput { name: "nothing" }')
    _flipped(built / "model.onnx")
    files = [trouble.path.name for trouble in shelf.checked().troubles]
    assert "config.pbtxt" in files
    assert "model.onnx" in files


def test_what_keeps_a_version_from_loading_is_told_once(shelf: Shelf) -> None:
    for file in _built(shelf).glob("*.onnx"):
        _flipped(file)
    checked = shelf.checked()
    assert checked.servable == ()
    (trouble,) = checked.troubles
    assert trouble.text.count("not the file that manifest.json describes") == 2
