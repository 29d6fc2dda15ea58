from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from headrace_engines import build as build_module
from headrace_engines import digits, manifest, report, store, trial
from headrace_engines.build import BuildOptions, BuildResult, build
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.gates import MIN_SPEED_RATIO, Speed
from headrace_engines.load import load

from .conftest import BuiltDigits

_BUILD = f"""
import sys
sys.path[:] = {sys.path!r}
from pathlib import Path
from headrace_engines.build import BuildOptions, build
result = build("digits", "digits", Path(sys.argv[1]), store_folder=Path(sys.argv[2]),
               options=BuildOptions(recipes=("int8-cpu",)),
               progress=lambda step, fraction: print(step, flush=True))
print(result.folder.name, result.cached, result.is_new)
"""


def _start(repository: Path, store_folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(repository), str(store_folder)],
        stdout=subprocess.PIPE,
        text=True,
    )


def _until(process: subprocess.Popen[str], step: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(step):
            return
    pytest.fail(f"the build ended without {step!r}")


def _again(built_digits: BuiltDigits, into: Path, name: str = "digits") -> BuildResult:
    options = BuildOptions(recipes=("int8-cpu",))
    return build(
        "digits",
        name,
        into,
        options=options,
        store_folder=built_digits.store,
        progress=lambda step, fraction: None,
    )


def test_a_build_is_measured_and_good(built_digits: BuiltDigits) -> None:
    result = built_digits.result
    assert (result.folder, result.cached, result.is_new) == (
        built_digits.repository / "digits" / "1",
        False,
        True,
    )
    assert [(artefact.recipe, artefact.passed) for artefact in result.manifest.artefacts] == [
        ("fp32", True),
        ("int8-cpu", True),
    ]
    (comparison,) = result.report.comparisons
    assert comparison.quality is not None
    assert (comparison.quality.metric, comparison.quality.output) == ("accuracy", "probabilities")
    assert comparison.quality.rows == 719
    assert comparison.quality.reference >= 0.97
    assert comparison.quality.candidate >= 0.97
    assert comparison.likeness["sqnr_db"] > 20
    assert comparison.likeness["agreement"] > 0.99
    assert [speed.rows for speed in comparison.speeds] == [1, 8, 32, 64]
    assert comparison.speed_ratio is not None
    assert comparison.speed_ratio >= MIN_SPEED_RATIO
    assert 3.5 < comparison.reference_bytes / comparison.candidate_bytes < 4


def test_the_folder_is_what_its_manifest_says(built_digits: BuiltDigits) -> None:
    result = built_digits.result
    assert manifest.read(result.folder) == result.manifest
    for artefact in result.manifest.artefacts:
        manifest.verify(result.folder, artefact)
        assert (result.folder / artefact.file).stat().st_size == artefact.size_bytes
    assert set(result.manifest.tools) == {
        "numpy",
        "onnx",
        "onnxruntime",
        "scikit-learn",
        "scipy",
        "skl2onnx",
    }
    assert result.manifest.tools["onnx"] == metadata.version("onnx")
    assert set(result.manifest.data) == {"train", "calibration", "held_out"}
    assert [(tensor.name, tensor.dims) for tensor in result.manifest.inputs] == [("image", (64,))]
    assert [(tensor.name, tensor.dims) for tensor in result.manifest.outputs] == [("probabilities", (10,))]


def test_progress_runs_from_0_to_1(built_digits: BuiltDigits) -> None:
    fractions = [fraction for _, fraction in built_digits.steps]
    assert fractions == sorted(fractions)
    assert (fractions[0], built_digits.steps[-1]) == (0.0, ("done", 1.0))


def test_an_unchanged_build_is_a_copy(built_digits: BuiltDigits, tmp_path: Path) -> None:
    result = _again(built_digits, tmp_path, "copy")
    assert (result.folder, result.cached, result.is_new) == (tmp_path / "copy" / "1", True, True)
    assert result.manifest == built_digits.result.manifest
    assert _again(built_digits, tmp_path, "copy").is_new is False


def test_a_repository_cannot_be_the_store(built_digits: BuiltDigits) -> None:
    with pytest.raises(ValueError, match="is where builds are kept: name another folder"):
        _again(built_digits, built_digits.store)


def test_another_machine_measures_speed_itself(
    built_digits: BuiltDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built_digits.store, tmp_path / "store")
    here = report.machine()
    monkeypatch.setattr(report, "machine", lambda: here | {"processor": "another"})
    as_fast = (Speed(1, 1.0, 1.0),)
    monkeypatch.setattr(trial, "compare_speed", lambda *engines_rows_sizes: as_fast)
    result = _again(replace(built_digits, store=tmp_path / "store"), tmp_path / "models")
    assert (result.cached, result.manifest) == (True, built_digits.result.manifest)
    assert result.report.machine["processor"] == "another"
    assert [one.passed for one in result.report.comparisons] == [False]
    served = load(result.folder)
    served.close()
    assert served.artefact == "model.onnx"


def test_an_unknown_source_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModelError,
        match=r"^cannot build 'model\.pkl': there is no such file or folder; without one there is: digits$",
    ):
        build(
            "model.pkl", "m", tmp_path / "models", store_folder=tmp_path, progress=lambda step, fraction: None
        )
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(digits.SOURCE, tools=("no-such-library",))
    monkeypatch.setitem(build_module.SOURCES, "digits", source)
    with pytest.raises(UnsupportedModelError, match=r"needs no-such-library, .*'\.\[cpu,build\]'"):
        build(
            "digits",
            "digits",
            tmp_path,
            store_folder=tmp_path / "store",
            progress=lambda step, fraction: None,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_bad_name_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model name '\.\./up'"):
        build(
            "digits", "../up", tmp_path, store_folder=tmp_path / "store", progress=lambda step, fraction: None
        )
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_changes_nothing_and_two_at_once_agree(
    built_digits: BuiltDigits, tmp_path: Path
) -> None:
    repository, store_folder = tmp_path / "models", tmp_path / "store"
    killed = _start(repository, store_folder)
    _until(killed, "trying")
    killed.kill()
    killed.communicate()
    assert not repository.exists()

    both = [_start(repository, store_folder) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    # One of them builds and one of them publishes; which is first at either is left to chance.
    versions, cached, new = zip(*(lines[-1].split() for lines in outputs), strict=True)
    assert (versions, sorted(cached), sorted(new)) == (("1", "1"), ["False", "True"], ["False", "True"])
    assert sum("waiting for another build" in lines for lines in outputs) == 1
    assert [path.name for path in store_folder.iterdir()] == [
        path.name for path in built_digits.store.iterdir()
    ]
    # Another process, another folder, another time: the same bytes.
    again = (repository / "digits" / "1" / "manifest.json").read_bytes()
    assert again == (built_digits.result.folder / "manifest.json").read_bytes()


def test_a_publication_killed_at_any_moment_leaves_whole_versions(
    built_digits: BuiltDigits, tmp_path: Path
) -> None:
    for delay_ms in (0, 1, 2, 3, 5, 8):
        repository = tmp_path / str(delay_ms)
        process = _start(repository, built_digits.store)
        _until(process, "publishing")
        time.sleep(delay_ms / 1000)
        process.kill()
        process.communicate()
        seen = [path for path in repository.glob("*") if not path.name.startswith(".")]
        for model in seen:
            assert [path.name for path in model.iterdir()] == ["1"]
            store.read(model / "1")
        result = _again(built_digits, repository)
        assert (result.folder, result.is_new) == (repository / "digits" / "1", not seen)
        assert [path.name for path in repository.iterdir()] == ["digits"]
