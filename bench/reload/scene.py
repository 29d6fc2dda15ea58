"""The model repository of a storm: what is written into it, and what is right to answer then."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.reload.ledger import SPACING, Answers, Ledger
from bench.reload.load import FEATURES
from headrace_proto.v1 import inference_pb2 as pb

FIRST, SECOND = "first", "second"
"""The models: of the first the newest version is served, of the second every version."""
POLICIES: Final[Mapping[str, str]] = {FIRST: "", SECOND: "version_policy { all {} }\n"}
TARGETS: Final = ((FIRST, ""), (SECOND, ""), (FIRST, ""), (SECOND, "1"))
"""What is asked for: model and version. Version 1 of the second model is changed, and never removed."""

_LONG_AGO_NS: Final = 10**18


class OperationError(RuntimeError):
    """The server did not do with an operation what it should."""


class Scene:
    """What stands in the repository, and how it came to be served."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        """Write version 1 of both models."""
        self.ledger = ledger
        self.folder = folder
        self.serving_seconds: dict[str, list[float]] = defaultdict(list)
        """From a changed file to the first answer that it computed, by the way of changing it."""
        self.held: dict[str, dict[int, int]] = {}
        """The serial of each version, by model."""
        for model, policy in POLICIES.items():
            (self.folder / model).mkdir(parents=True)
            (self.folder / model / "config.pbtxt").write_text(policy)
            self.held[model] = {}
            self.write(model, 1)
            self.ledger.settle(model, self.right(model))

    def right(self, model: str) -> Answers:
        """Return what the model should answer as it stands in the repository."""
        return right(self.held[model])

    def write(self, model: str, version: int) -> int:
        """Write a version where it is to stand, new or over the old one; return its serial."""
        serial = self.held[model][version] = self.ledger.register(model, version)
        folder = self.folder / model / str(version)
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(adder(serial))
        return serial

    def place(self, model: str, version: int, *, into: Path | None = None) -> int:
        """Write a version aside and rename it into its place, or `into` another folder; return its serial."""
        serial = self.held[model][version] = self.ledger.register(model, version)
        aside = self.folder / f".{model}-{version}"
        aside.mkdir()
        (aside / "model.onnx").write_bytes(adder(serial))
        for path in (aside / "model.onnx", aside):
            _make_old(path)
        aside.rename((into or self.folder / model) / str(version))
        if into:
            _make_old(into)
        return serial

    def spoil(self, model: str, version: int) -> Path:
        """Write a version that is no model; return its folder."""
        folder = self.folder / model / str(version)
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"no model")
        return folder

    def newest(self, model: str) -> int:
        """Return the highest version that is held."""
        return max(self.held[model])

    def stopwatch(self, way: str) -> Callable[[float], None]:
        """Begin to measure; return what takes the moment when a change served."""
        begun = time.perf_counter()

        def stop(served_at: float) -> None:
            self.serving_seconds[way].append(served_at - begun)

        return stop


def _make_old(path: Path) -> None:
    """Let what was written be older than a renaming that follows at once: the clock of files ticks slowly."""
    os.utime(path, ns=(_LONG_AGO_NS, _LONG_AGO_NS))


async def states(stub: Any, model: str) -> dict[str, tuple[str, str]]:
    """Return state and reason of each version of the model, as the server tells them."""
    index = await stub.RepositoryIndex(pb.RepositoryIndexRequest())
    return {one.version: (one.state, one.reason) for one in index.models if one.name == model}


def right(versions: Mapping[int, int]) -> Answers:
    """Return what a model answers that serves these serials: where no version is named, the newest one."""
    newest = versions[max(versions)]
    named: dict[str, Any] = {str(number): frozenset({serial}) for number, serial in versions.items()}
    return {"": frozenset({newest}), **named}


def adder(serial: int) -> bytes:
    """Return a model that adds what tells its serial to each element."""
    number = numpy_helper.from_array(np.array(serial * SPACING, np.float32), "number")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "number"], ["y"])],
        "adder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", FEATURES])],
        [number],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
