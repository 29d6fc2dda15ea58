"""Networks that PyTorch exported for one row, by either of its exporters, are opened to any number."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_engines.importers.formats import detect
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.session import import_session
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytest.importorskip("onnxscript", reason="needs the extra `torch`")

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]

nn = torch.nn


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(x)[0][:, -1])


class _Vision(nn.Module):
    """A transformer that reads its answer from a token of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 17, 16))
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.places
        return self.head(self.layers(tokens)[:, 0])


class _Segmenting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.Conv2d(11, 2, 1)

    def forward(self, x: Any) -> Any:
        low = self.norm(nn.functional.silu(self.down(x)))
        return self.up(torch.cat([nn.functional.interpolate(low, scale_factor=2, mode="bilinear"), x], 1))


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "TorchScript"])
@pytest.mark.parametrize(
    ("network", "dims"), [(_Recurrent, (5, 8)), (_Vision, (3, 16, 16)), (_Segmenting, (3, 16, 16))]
)
def test_a_network_of_one_row_is_opened(
    tmp_path: Path, network: Callable[[], Any], dims: tuple[int, ...], dynamo: bool
) -> None:
    torch.manual_seed(0)
    module = network().eval()
    path, into = tmp_path / "source.onnx", tmp_path / "model.onnx"
    options = {"external_data": False, "verbose": False} if dynamo else {}
    torch.onnx.export(
        module, (torch.randn(1, *dims),), path, dynamo=dynamo, opset_version=18 if dynamo else 17, **options
    )
    rows = np.random.default_rng(0).normal(size=(5, *dims)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(rows)).numpy()
    with import_session(path, detect(path), ImportOptions(), is_trusted=False) as session:
        session.convert(into)
        with closing(OnnxRuntimeEngine(into)) as engine:
            (answers,) = engine.run([rows])
            (alone,) = session.answers({engine.spec.inputs[0].name: rows})
    for found in (answers, alone):
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
