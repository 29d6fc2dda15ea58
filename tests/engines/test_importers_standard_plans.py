"""What is rewritten into ONNX's own domain is what TensorRT builds plans of."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classical_models import ROWS, THREE, models
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.sklearn import SklearnImporter
from headrace_engines.plans.builder import build_plan
from headrace_engines.plans.nvidia import needed
from headrace_engines.plans.settings import PlanSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None,
        reason="the package tensorrt_rtx is not installed: pip install tensorrt_rtx",
    ),
    pytest.mark.filterwarnings("ignore:.*probability.*"),
]

_CODES = np.hstack([ROWS, np.arange(len(ROWS))[:, None] % 6]).astype(np.float32)
_CODES[::9] = np.nan


@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (RandomForestClassifier(10, random_state=0), ROWS),
        (HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5, categorical_features=[5]), _CODES),
        (SVC(probability=True, random_state=0), ROWS),
        (KNeighborsClassifier(), ROWS),
        (make_pipeline(StandardScaler(), LogisticRegression()), ROWS),
        (make_pipeline(OneHotEncoder(), LogisticRegression()), ROWS.round()),
    ],
    ids=lambda each: type(each).__name__,
)
def test_tensorrt_builds_a_plan(estimator: Any, rows: Any, tmp_path: Path) -> None:
    SklearnImporter(estimator.fit(rows, THREE), ImportOptions(), "").convert(tmp_path / "model.onnx")
    name = "model.standard.onnx" if "standard" in models(tmp_path / "model.onnx") else "model.onnx"
    facts = build_plan(
        tmp_path / name,
        tmp_path / "model.plan",
        needed(),
        PlanSettings(),
        caches=tmp_path,
        progress=lambda step, share: None,
    )
    assert facts.size_bytes == (tmp_path / "model.plan").stat().st_size > 0
