from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from headrace_engines import report
from headrace_engines.errors import ModelFileError
from headrace_engines.gates import Quality, Speed
from headrace_engines.load import Loaded, load
from headrace_engines.manifest import FILE_NAME, FP32, Artefact, Manifest, Recipe
from headrace_engines.report import Comparison, Report
from headrace_engines.spec import TensorSpec

FLOAT = np.dtype(np.float32)
INT8 = "model.int8-cpu.onnx"
_JUDGED = Quality("accuracy", "y", 200, 1.0, 1.0, 0.0, -0.01, 0.01, 0.01)


@contextmanager
def loaded(folder: Path, max_batch_size: int = 64) -> Iterator[Loaded]:
    result = load(folder, max_batch_size=max_batch_size)
    try:
        yield result
    finally:
        result.engine.close()


def artefact(folder: Path, file: str, recipe: str) -> Artefact:
    contents = (folder / file).read_bytes()
    digest = hashlib.sha256(contents).hexdigest()
    return Artefact(file, recipe, "cpu", digest, len(contents), True, f"{recipe} is good")


class Version:
    """A version folder that two MLPs of the same shape stand in, as a build leaves it."""

    def __init__(self, folder: Path, fp32: Path, int8: Path, features: int = 4, classes: int = 3) -> None:
        self.folder = folder
        shutil.copy(fp32, folder / "model.onnx")
        shutil.copy(int8, folder / INT8)
        self.manifest = Manifest(
            source=Recipe("test", {}),
            recipes=(Recipe(FP32, {}), Recipe("int8-cpu", {})),
            data={},
            tools={},
            inputs=(TensorSpec("x", FLOAT, (features,)),),
            outputs=(TensorSpec("y", FLOAT, (classes,)),),
            artefacts=(artefact(folder, "model.onnx", FP32), artefact(folder, INT8, "int8-cpu")),
        )
        self.write(self.manifest)
        self.measure(2.0)

    def measure(self, ratio: float, other: float = 1.1) -> None:
        """Write a report that finds INT8, and another artefact, so many times as fast as FP32."""
        found = {"int8-cpu": ratio, "other": other}
        compared = tuple(
            Comparison(name, "cpu", times > 1, "", 2, 1, _JUDGED, {}, (Speed(1, times, 1.0),))
            for name, times in found.items()
        )
        (self.folder / report.FILE_NAME).write_bytes(Report(compared, {}, {}).to_bytes())

    def write(self, manifest: Manifest) -> None:
        (self.folder / FILE_NAME).write_bytes(manifest.to_bytes())

    def describe(self, file: str, **changes: object) -> None:
        """Change what the manifest says of one artefact."""
        artefacts = tuple(replace(a, **changes) if a.file == file else a for a in self.manifest.artefacts)
        self.manifest = replace(self.manifest, artefacts=artefacts)
        self.write(self.manifest)


@pytest.fixture
def version(models, tmp_path) -> Version:
    return Version(tmp_path, models.mlp(seed=1), models.mlp(seed=2))


def test_a_bare_model(models, tmp_path):
    shutil.copy(models.mlp(), tmp_path / "model.onnx")
    with loaded(tmp_path, 16) as result:
        assert result.artefact == "model.onnx"
        assert result.engine.spec.max_batch_size == 16
        assert result.why == ("model.onnx: chosen: the only model, as it was put here",)


def test_what_passed_its_gates_comes_before_the_original(version):
    with loaded(version.folder) as result:
        assert result.artefact == INT8
        assert result.why == (
            f"{INT8}: chosen: as good as FP32 and faster",
            f"model.onnx: not needed: {INT8} comes first",
        )


def test_what_did_not_pass_is_not_opened(version):
    (version.folder / INT8).unlink()
    version.describe(INT8, passed=False, reason="not good enough: a drop of 3.1 points")
    with loaded(version.folder) as result:
        assert result.artefact == "model.onnx"
        assert f"{INT8}: not good enough: a drop of 3.1 points" in result.why


def test_what_was_made_for_another_device_is_not_opened(version):
    version.describe(INT8, target="cuda-sm90")
    with loaded(version.folder) as result:
        assert result.artefact == "model.onnx"
        assert f"{INT8}: made for cuda-sm90, which nothing here serves" in result.why


def test_a_damaged_artefact_gives_way_loudly(version, caplog):
    whole = (version.folder / INT8).read_bytes()
    (version.folder / INT8).write_bytes(whole[:-1] + b"\x00")
    expected = hashlib.sha256(whole).hexdigest()
    found = hashlib.sha256((version.folder / INT8).read_bytes()).hexdigest()
    with caplog.at_level(logging.WARNING), loaded(version.folder) as result:
        assert result.artefact == "model.onnx"
        (line,) = (line for line in result.why if line.startswith(f"{INT8}: NOT SERVED: "))
    assert expected in line
    assert found in line
    assert found in caplog.text


def test_a_missing_artefact_gives_way(version):
    (version.folder / INT8).unlink()
    with loaded(version.folder) as result:
        assert result.artefact == "model.onnx"
        assert any(line.startswith(f"{INT8}: NOT SERVED: ") for line in result.why)


def test_nothing_whole(version):
    for file in (INT8, "model.onnx"):
        (version.folder / file).write_bytes(b"damaged")
    with pytest.raises(ModelFileError, match=rf"^{INT8}: not the file .*; model.onnx: not the file [^/]*$"):
        load(version.folder)


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(TensorSpec("other", FLOAT, (4,)), id="name"),
        pytest.param(TensorSpec("x", np.dtype(np.int64), (4,)), id="datatype"),
        pytest.param(TensorSpec("x", FLOAT, (5,)), id="dims"),
        pytest.param(TensorSpec("x", FLOAT, (4, 1)), id="rank"),
    ],
)
def test_an_artefact_that_is_not_what_the_manifest_says_is_refused(version, tensor):
    version.write(replace(version.manifest, inputs=(tensor,)))
    with pytest.raises(ModelFileError, match=r"its inputs are x float32 \[4\], and manifest.json says"):
        load(version.folder)


def test_a_damaged_manifest_is_refused(version):
    (version.folder / FILE_NAME).write_text("{")
    with pytest.raises(ModelFileError, match=r"manifest\.json"):
        load(version.folder)


def test_rows_that_change_each_other_are_served_alone(models, tmp_path, caplog):
    shutil.copy(models.normalised_over_batch(), tmp_path / "model.onnx")
    with loaded(tmp_path) as result:
        assert result.engine.spec.max_batch_size == 1
        (line,) = result.why
    assert line.startswith("model.onnx: chosen: served one row at a time: in a batch output 'y' changes")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"{tmp_path}/model.onnx is served one row at a time: in a batch")


def test_an_original_that_batches_comes_before_an_artefact_that_does_not(models, tmp_path):
    version = Version(tmp_path, models.mlp((16, 32, 4)), models.dynamically_quantised(), 16, 4)
    with loaded(version.folder) as result:
        assert result.artefact == "model.onnx"
        assert result.engine.spec.max_batch_size == 64
        assert any(line.startswith(f"{INT8}: NOT SERVED: the rows of a batch") for line in result.why)


def test_one_row_at_a_time_there_is_nothing_to_change(models, tmp_path):
    version = Version(tmp_path, models.mlp((16, 32, 4)), models.dynamically_quantised(), 16, 4)
    with loaded(version.folder, max_batch_size=1) as result:
        assert result.artefact == INT8


def test_what_was_made_for_one_row_at_a_time_is_served_so_alone(models, tmp_path):
    version = Version(tmp_path, models.mlp((16, 32, 4)), models.dynamically_quantised(), 16, 4)
    version.describe(INT8, max_rows=1)
    with loaded(version.folder) as result:
        assert result.artefact == "model.onnx"
        assert f"{INT8}: its scales are of the moment, so that rows would change each other" in result.why
    with loaded(version.folder, max_batch_size=1) as result:
        assert result.artefact == INT8


def test_what_was_made_for_one_row_at_a_time_serves_a_model_whose_rows_share_no_batch(models, tmp_path):
    version = Version(tmp_path, models.normalised_over_batch(), models.unary("Neg", TensorProto.FLOAT), 3, 3)
    version.describe(INT8, max_rows=1)
    with loaded(version.folder) as result:
        assert result.artefact == INT8
        assert result.engine.spec.max_batch_size == 1


@pytest.mark.parametrize(
    ("int8", "other", "served"),
    [
        (2.0, 4.0, "model.other.onnx"),
        (4.0, 2.0, INT8),
        (2.0, 2.1, INT8),
        (0.9, 1.1, "model.other.onnx"),
        (0.9, 0.9, "model.onnx"),
    ],
)
def test_the_fastest_serves_and_nothing_that_is_no_faster(version, int8, other, served):
    shutil.copy(version.folder / INT8, version.folder / "model.other.onnx")
    further = artefact(version.folder, "model.other.onnx", "other")
    version.write(replace(version.manifest, artefacts=(*version.manifest.artefacts, further)))
    version.measure(int8, other)
    with loaded(version.folder) as result:
        assert result.artefact == served
        told = f"{INT8}: not better: no faster than FP32"
        assert (told in result.why) == (int8 < 1)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: file.unlink(), "report.json is missing"),
        (lambda file: file.write_text("{"), "report.json: not JSON"),
        (lambda file: file.write_bytes(Report((), {}, {}).to_bytes()), "report.json does not tell of it"),
    ],
    ids=["missing", "damaged", "silent"],
)
def test_without_a_report_nothing_is_known_to_be_faster(version, caplog, damage, told):
    damage(version.folder / report.FILE_NAME)
    with caplog.at_level(logging.WARNING), loaded(version.folder) as result:
        assert result.artefact == "model.onnx"
        assert f"{INT8}: not known to be faster than FP32: {told}" in " ".join(result.why)
    assert ("what was made for the CPU is not served" in caplog.text) == ("does not tell" not in told)


def test_a_model_without_a_batch_axis_is_served_as_it_is(models, tmp_path):
    shutil.copy(models.unary("Softmax", TensorProto.FLOAT, (2, 3), (2, 3), axis=0), tmp_path / "model.onnx")
    with loaded(tmp_path) as result:
        assert result.engine.spec.max_batch_size == 0


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("model.plan", "needs a GPU: none was found"),
        ("model.pt", "TorchScript is not supported"),
    ],
)
def test_formats_that_are_not_served_are_named(models, tmp_path, file, reason):
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(ModelFileError, match=f"{file}: {reason}.*; expected model.onnx"):
        load(tmp_path)
    shutil.copy(models.mlp(), tmp_path / "model.onnx")
    with loaded(tmp_path) as result:
        assert any(line.startswith(f"{file}: {reason}") for line in result.why)


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "found no files"), (("weights.bin", "a.txt"), "found a.txt, weights.bin")],
)
def test_a_folder_with_nothing_to_serve(tmp_path, names, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ModelFileError, match=f"{message}; expected model.onnx"):
        load(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    told = r"the version's folder is gone, or a link that leads nowhere; expected model\.onnx"
    with pytest.raises(ModelFileError, match=told):
        load(tmp_path / "absent")


def test_a_machine_without_the_runtime(models, tmp_path, monkeypatch):
    shutil.copy(models.mlp(), tmp_path / "model.onnx")
    monkeypatch.delitem(sys.modules, "headrace_engines.runtime.onnxruntime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelFileError, match=r"^model.onnx: needs onnxruntime.*pip install '\.\[cpu\]'"):
        load(tmp_path)


def not_a_file(kind: str, path: Path) -> None:
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "circle":
            path.symlink_to(path.name)
        case "nowhere":
            path.symlink_to("absent")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("circle", "cannot be read: too many levels of symbolic links"),
        ("nowhere", "no such file"),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", FILE_NAME])
def test_what_is_no_file_is_told_and_not_waited_for(kind, told, name, tmp_path, caplog):
    not_a_file(kind, tmp_path / name)
    with pytest.raises(ModelFileError, match=f"^{name}: {told}$"):
        load(tmp_path)
    assert not caplog.records


NO_MODELS = {
    "empty": (b"", ": the file is empty"),
    "cut short": (b"broken", "Protobuf parsing failed: the file has 6 bytes, and may have been cut short"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "Protobuf parsing failed: the file has 64 bytes and is a Git LFS pointer: run `git lfs pull`",
    ),
    "a page": (
        b"\n<!DOCTYPE html><title>404</title>",
        "Protobuf parsing failed: the file has 34 bytes and is a web page: its download went wrong",
    ),
}


@pytest.mark.parametrize("what", NO_MODELS)
def test_a_file_that_is_no_model_is_told_with_its_size_and_without_its_folder(tmp_path, caplog, what):
    content, told = NO_MODELS[what]
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path)
    text = str(caught.value)
    assert text.startswith("model.onnx: ONNX Runtime cannot load it: ")
    assert text.endswith(told)
    assert str(tmp_path) not in text
    assert not caplog.records


def test_a_missing_file_of_weights_is_told_wherever_the_folder_was_named_from(models, tmp_path, monkeypatch):
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    model = onnx.load(models.mlp())
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (folder / "w.data").unlink()
    monkeypatch.chdir(tmp_path)
    for named in (folder, Path("m/1")):
        with pytest.raises(ModelFileError, match=r"its weights are in 'w\.data', which is not there"):
            load(named)
