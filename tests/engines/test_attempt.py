from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from onnx_models import Models

from headrace_engines import attempt as attempts
from headrace_engines import trial
from headrace_engines.attempt import Reference, attempt
from headrace_engines.compress.recipes import RECIPES
from headrace_engines.judgement import Wish, judgement
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.source import Prepared

_ROWS = {"x": np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)}


@pytest.mark.parametrize(("widths", "kept"), [((32, 64, 8), 0), ((32, 64, 48, 8), 1)])
def test_a_recipe_that_runs_out_of_layers_has_lost_too_much(
    widths: tuple[int, ...], kept: int, models: Models
) -> None:
    path = models.mlp(widths)
    folder = path.parent / path.stem
    folder.mkdir()
    path = path.rename(folder / "model.onnx")
    with closing(OnnxRuntimeEngine(path)) as engine:
        answers = trial.answers(engine, _ROWS)
        prepared = Prepared(path, _ROWS, _ROWS, None, answers, {})
        judged = judgement(["y"], answers, None, Wish(metric="fidelity", max_loss=1e-9), made_up=False)
        made = attempt(RECIPES["int8-cpu"], Reference(path, engine, prepared, answers, judged, (1, 8)))
    assert made.lost_too_much
    assert made.artefact.reason == attempts.NOT_GOOD
    assert made.comparison is not None
    assert "fidelity" in made.comparison.verdict
    assert sum(layer.kept for layer in made.comparison.layers) == kept
    assert not list(folder.glob("model.int8*"))
