"""What docs/model-configuration.md shows, in a real server and before `headrace check`."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import present
from onnx import TensorProto, helper
from server_process import ServerProcess

from headrace_cli.main import run

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "model-configuration.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"`models/(\w+)/config\.pbtxt`:\n\n```\n(.*?)```", PAGE, re.DOTALL))
REPORT = re.findall(r"^(models/classifier/config.pbtxt:.*)$", PAGE, re.MULTILINE)
COUNTING = """
from headrace_engines.python_model import Tensor

class Model:
    inputs = [Tensor("x", "FP32", [4])]
    outputs = [Tensor("y", "INT64", [1])]
    max_batch_size = 2
    executed = 0

    def execute(self, batch):
        self.executed += 1
        return {"y": [[self.executed]] * len(batch["x"])}
"""


def write(repository: Path, models: Any) -> None:
    """Write the models that are shown, each with a file that fits it, and a program with their warm-up."""
    mean = helper.make_node("ReduceMean", ["pixels"], ["scores"], axes=[2, 3], keepdims=1)
    images = models.save(
        [mean],
        {"pixels": (TensorProto.FLOAT, (1, 3, 2, 2))},
        {"scores": (TensorProto.FLOAT, (1, 3, 1, 1))},
    )
    biased = models.save(
        [helper.make_node("Add", ["x", "bias"], ["y"])],
        {"x": (TensorProto.FLOAT, (2,)), "bias": (TensorProto.FLOAT, (2,))},
        {"y": (TensorProto.FLOAT, (2,))},
        {"bias": np.array([10, 20], np.float32)},
    )
    files = {"images": images, "biased": biased}
    for name, text in SHOWN.items():
        for version in (1, 2, 3) if name == "kept" else (1,):
            (repository / name / str(version)).mkdir(parents=True)
            shutil.copy(files.get(name, models.mlp()), repository / name / str(version) / "model.onnx")
        (repository / name / "config.pbtxt").write_text(text)
    (repository / "images" / "labels.txt").write_text("cat\ndog\nbird\n")
    shutil.copytree(repository / "warm", repository / "counting")
    (repository / "counting" / "1" / "model.onnx").rename(repository / "counting" / "1" / "model.py")
    (repository / "counting" / "1" / "model.py").write_text(COUNTING)
    for name in ("warm", "counting"):
        (repository / name / "warmup").mkdir()
        (repository / name / "warmup" / "row").write_bytes(np.ones(4, np.float32).tobytes())


@pytest.fixture(scope="module")
def repository(models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configured") / "models"
    write(folder, models)
    return folder


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[Any]:
    flags = ("--allow-python-models", "--model-control-mode", "explicit", "--load-model", "*")
    with ServerProcess(repository, *flags) as server:
        ready = server.ready()
        assert set(ready["models"]) == {*SHOWN, "counting"}
        with triton.InferenceServerClient(ready["grpc"]) as client:
            yield client
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0


def tensor(name: str, array: Any) -> Any:
    given = np.asarray(array, np.float32)
    tensor = triton.InferInput(name, list(given.shape), "FP32")
    tensor.set_data_from_numpy(given)
    return tensor


def test_callers_see_the_dims_and_the_labels_that_were_declared(client: Any) -> None:
    pixels = np.zeros((3, 2, 2), np.float32)
    pixels[1], pixels[2] = 2, 1
    answer = client.infer("images", [tensor("pixels", pixels)])
    np.testing.assert_array_equal(answer.as_numpy("scores"), [0, 2, 1])
    best = triton.InferRequestedOutput("scores", class_count=2)
    answer = client.infer("images", [tensor("pixels", pixels)], outputs=[best])
    assert list(answer.as_numpy("scores")) == [b"2.000000:1:dog", b"1.000000:2:bird"]
    with pytest.raises(triton.InferenceServerException, match="pixels"):
        client.infer("images", [tensor("pixels", pixels[np.newaxis])])
    told = client.get_model_config("images").config
    assert (list(told.input[0].dims), list(told.input[0].reshape.shape)) == ([3, 2, 2], [1, 3, 2, 2])


def test_an_input_that_has_a_value_in_the_file_may_be_missing(client: Any) -> None:
    x = tensor("x", [1, 2])
    np.testing.assert_array_equal(client.infer("biased", [x]).as_numpy("y"), [11, 22])
    given = client.infer("biased", [x, tensor("bias", [1, 1])])
    np.testing.assert_array_equal(given.as_numpy("y"), [2, 3])


def test_samples_are_executed_before_the_first_request(client: Any) -> None:
    answer = client.infer("counting", [tensor("x", [[0, 0, 0, 0]])])
    assert answer.as_numpy("y").tolist() == [[3 + 1 + 1]]


def test_the_versions_that_were_chosen_serve(client: Any) -> None:
    assert list(client.get_model_metadata("kept").versions) == ["1", "3"]
    with pytest.raises(triton.InferenceServerException):
        client.infer("kept", [tensor("x", [[0, 0, 0, 0]])], model_version="2")


def test_what_is_told_of_a_model_configures_it_alike(client: Any, repository: Path) -> None:
    for name in SHOWN:
        told = client.get_model_config(name, as_json=True)["config"]
        client.load_model(name, config=json.dumps(told))
        assert client.get_model_config(name, as_json=True)["config"] == told


def test_a_callers_configuration_stands_until_the_model_is_loaded_again(client: Any) -> None:
    client.load_model("classifier", config='{"max_batch_size": 2, "instance_group": [{"count": 3}]}')
    told = client.get_model_config("classifier").config
    assert (told.max_batch_size, told.instance_group[0].count) == (2, 3)
    with pytest.raises(triton.InferenceServerException, match="2"):
        client.infer("classifier", [tensor("x", np.zeros((3, 4)))])
    client.load_model("classifier")
    told = client.get_model_config("classifier").config
    assert (told.max_batch_size, told.instance_group[0].count) == (32, 1)
    assert client.infer("classifier", [tensor("x", np.zeros((3, 4)))]).as_numpy("y").shape == (3, 3)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            '{"max_batch": 2}',
            "config override: max_batch: there is no such field; did you mean max_batch_size?",
        ),
        (
            '{"input": [{"name": "x", "dims": [5]}]}',
            r"config override: input\[0\]: 'x': the model has FP32 \[4\]",
        ),
        (
            '{"instance_group": [{"kind": "KIND_GPU"}]}',
            r"instance_group\[0\].kind: there is no GPU to run on",
        ),
    ],
)
def test_a_callers_configuration_that_is_wrong_changes_nothing(client: Any, config: str, told: str) -> None:
    with pytest.raises(triton.InferenceServerException, match=told) as refused:
        client.load_model("patient", config=config)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert client.get_model_config("patient").config.max_batch_size == 32


def test_a_sample_that_fails_leaves_the_old_version_serving(client: Any, repository: Path) -> None:
    config = repository / "warm" / "config.pbtxt"
    good = config.read_text()
    config.write_text(good.replace("dims: [ 4 ] zero_data", "dims: [ 5 ] zero_data"))
    try:
        with pytest.raises(triton.InferenceServerException, match=r"config\.pbtxt:9: model_warmup.*dims"):
            client.load_model("warm")
        assert client.infer("warm", [tensor("x", [[0, 0, 0, 0]])]).as_numpy("y").shape == (1, 3)
    finally:
        config.write_text(good)


def test_check_finds_nothing_wrong_with_what_is_shown(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", str(repository), "--allow-python-models"]) == 0
    assert f"versions that would be served: {len(SHOWN) + 2}" in capsys.readouterr().out


def test_the_report_that_is_shown_is_what_check_prints(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "models" / "classifier"
    shutil.copytree(repository / "classifier" / "1", model / "1")
    (model / "config.pbtxt").write_text(
        'backend: "onnxruntime"\n\npreferred_batch_size: 8\n\n\n'
        'input { name: "x" data_type: TYPE_INT64 dims: [ 4 ] }\n\n\ninstance_group { kind: KIND_GPU }\n'
    )
    monkeypatch.chdir(tmp_path)
    with present():  # no GPU, whatever is installed
        assert run(["check", "models"]) == 1
    assert capsys.readouterr().out.splitlines()[:-1] == REPORT
