from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_models import Models
from sklearn.neural_network import MLPClassifier

from headrace_engines import digits, manifest, pipeline, report, trial
from headrace_engines.compress.recipes import chosen
from headrace_engines.errors import DataError, GateError
from headrace_engines.gates import Speed
from headrace_engines.importers.sklearn import convert
from headrace_engines.judgement import Wish
from headrace_engines.load import load
from headrace_engines.manifest import Manifest, Recipe
from headrace_engines.pipeline import Plan
from headrace_engines.progress import Stages
from headrace_engines.report import Report
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine
from headrace_engines.source import Prepared, Source
from headrace_engines.standing import standings

_INT8 = Plan(chosen(("int8-cpu",), ("cpu",)))

Made = tuple[Manifest, Report, list[tuple[str, float]]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A perceptron that is too small to gain anything from INT8."""
    data = digits.splits()
    classifier = MLPClassifier((24,), max_iter=60, tol=1e-2, random_state=0)
    classifier.fit(data.train.images, data.train.labels)
    model = tmp_path_factory.mktemp("small") / "model.onnx"
    converted = convert(classifier, input_name=digits.INPUT, output_name=digits.OUTPUT)
    model.write_bytes(converted.SerializeToString())
    return Prepared(
        model=model,
        calibration={digits.INPUT: data.calibration.images},
        held_out={digits.INPUT: data.held_out.images},
        labels=data.held_out.labels,
        expected=(classifier.predict_proba(data.held_out.images),),
        data={"held_out": "a hash"},
        facts={"class": "MLPClassifier"},
    )


def _make(prepared: Prepared, folder: Path, plan: Plan = _INT8) -> Made:
    def prepare(into: Path, stages: Stages) -> Prepared:
        model = into / "model.onnx"
        with stages("training", 0.0):
            model.write_bytes(prepared.model.read_bytes())
        return replace(prepared, model=model)

    steps: list[tuple[str, float]] = []
    source = Source(Recipe("small", {"seed": 0}), (), prepare, lambda model, facts: prepared.held_out)
    caches = folder / "caches"
    pipeline.make(
        source, plan, {"onnx": "1"}, folder, lambda step, fraction: steps.append((step, fraction)), caches
    )
    described, measured = manifest.read(folder), report.read(folder)
    assert described is not None
    assert measured is not None
    return described, measured, steps


@pytest.mark.parametrize(
    ("rows_apart", "most", "tried"), [(True, 64, "int8-cpu"), (False, 64, "dynamic"), (True, 1, "dynamic")]
)
def test_a_model_that_is_served_one_row_at_a_time_is_given_the_recipes_for_that(
    rows_apart: bool, most: int, tried: str, small: Prepared, tmp_path: Path
) -> None:
    plan = replace(_INT8, alone=chosen(("dynamic",), ("cpu",)), max_batch_size=most)
    _, _, steps = _make(replace(small, rows_apart=rows_apart), tmp_path, plan)
    assert [step for step, _ in steps if step.startswith("trying")] == [f"trying {tried}"]


def _wished(**wishes: object) -> Plan:
    return replace(_INT8, wish=Wish(**wishes))  # type: ignore[arg-type]  # a table of cases


def test_an_artefact_that_is_no_faster_is_kept_and_not_served(tmp_path: Path, small: Prepared) -> None:
    described, measured, _ = _make(small, tmp_path, replace(_INT8, demanded=frozenset({"int8-cpu"})))
    fp32, int8 = standings(described, measured)
    assert (fp32.artefact.file, fp32.may_serve) == ("model.onnx", True)
    assert (int8.artefact.recipe, int8.may_serve, int8.reason) == (
        "int8-cpu",
        False,
        "not better: no faster than FP32",
    )
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".png"} == {
        "manifest.json",
        "model.int8-cpu.onnx",
        "model.onnx",
        "report.html",
        "report.json",
    }
    (comparison,) = measured.comparisons
    assert not comparison.passed
    assert comparison.speed_ratio is not None
    assert comparison.speed_ratio < 1.05
    assert "not better: " in comparison.verdict
    served = load(tmp_path)
    served.close()
    assert served.why[1:] == ("model.int8-cpu.onnx: not better: no faster than FP32",)
    assert described.data == {"held_out": "a hash"}
    assert described.source.settings == {"seed": 0, "class": "MLPClassifier"}


def test_what_artefacts_were_judged_by_is_told(tmp_path: Path, small: Prepared) -> None:
    described, measured, _ = _make(small, tmp_path)
    assert described.gates == {
        "metric": "accuracy", "outputs": "probabilities", "rows": 719, "max_loss": 0.01, "confidence": 0.95,
        "min_speed_ratio": 1.05, "batch_sizes": "1,8,32,64",
    }  # fmt: skip
    assert not described.made_up
    assert measured.conversion_error < 1e-5
    assert measured.warnings == ()


def test_steps_are_told_in_order_and_timed(tmp_path: Path, small: Prepared) -> None:
    _, measured, steps = _make(small, tmp_path)
    assert set(measured.seconds) == {step for step, _ in steps}
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] < 1


@pytest.fixture(scope="module")
def badly_calibrated(small: Prepared) -> Prepared:
    return replace(small, calibration={digits.INPUT: np.full((200, 64), 1e-3, np.float32)})


def test_what_lost_too_much_is_left_out_with_its_figures(tmp_path: Path, badly_calibrated: Prepared) -> None:
    described, measured, _ = _make(badly_calibrated, tmp_path)
    assert [(made.recipe, made.passed) for made in described.artefacts] == [
        ("fp32", True),
        ("int8-cpu", False),
    ]
    assert not (tmp_path / "model.int8-cpu.onnx").exists()
    (comparison,) = measured.comparisons
    assert (comparison.passed, comparison.speeds) == (False, ())
    assert comparison.quality is not None
    assert comparison.quality.loss > 0.1
    assert "points at most" not in described.artefacts[1].reason


def test_what_was_demanded_and_lost_too_much_ends_the_build(
    tmp_path: Path, badly_calibrated: Prepared
) -> None:
    demanding = replace(_INT8, demanded=frozenset({"int8-cpu"}))
    with pytest.raises(GateError, match=r"accuracy 0\.\d+, FP32 0\.9\d+, on 719 held-out rows; loss \d\d"):
        _make(badly_calibrated, tmp_path, demanding)
    assert not (tmp_path / "manifest.json").exists()


def test_a_model_whose_weights_were_destroyed_is_refused(tmp_path: Path, small: Prepared) -> None:
    model = onnx.load(small.model)
    weights = model.graph.initializer[0]
    destroyed = np.zeros_like(numpy_helper.to_array(weights))
    weights.CopyFrom(numpy_helper.from_array(destroyed, weights.name))
    path = tmp_path / "destroyed.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GateError, match=r"model\.onnx: its answers differ .* by 0\.\d+ of their range"):
        _make(replace(small, model=path), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda array: np.full_like(array, np.nan), "its source alone answers held-out row 0 with NaN"),
        (lambda array: array[:, :9], "by inf"),
    ],
)
def test_answers_that_are_no_numbers_or_others_are_refused(
    tmp_path: Path, small: Prepared, spoil: Callable[[np.ndarray], np.ndarray], told: str
) -> None:
    with pytest.raises(GateError, match=told):
        _make(replace(small, expected=(spoil(small.expected[0]),)), tmp_path)


def test_too_few_held_out_rows_prove_nothing(tmp_path: Path, small: Prepared) -> None:
    assert small.labels is not None
    few = replace(
        small,
        held_out={digits.INPUT: small.held_out[digits.INPUT][:40]},
        labels=small.labels[:40],
        expected=(small.expected[0][:40],),
    )
    described, measured, _ = _make(few, tmp_path)
    assert not described.artefacts[1].passed
    assert "on 40 held-out rows" in measured.comparisons[0].verdict
    assert "interval may reach 2" in measured.comparisons[0].verdict


@pytest.mark.parametrize(
    ("made_up", "metric", "warning"),
    [(False, "agreement", "without labels"), (True, "fidelity", "compared with FP32 on noise")],
)
def test_without_labels_only_likeness_is_judged_and_it_is_told(
    tmp_path: Path, small: Prepared, made_up: bool, metric: str, warning: str
) -> None:
    described, measured, _ = _make(replace(small, labels=None, made_up=made_up), tmp_path)
    assert (described.gates["metric"], described.made_up) == (metric, made_up)
    assert [warning in told for told in measured.warnings] == [True]
    assert measured.comparisons[0].quality is not None
    assert measured.comparisons[0].quality.reference == 1.0


def test_where_all_rows_are_answered_alike_fp32_serves_alone(tmp_path: Path, small: Prepared) -> None:
    rows = np.repeat(small.held_out[digits.INPUT][:1], 200, 0)
    expected = (np.repeat(small.expected[0][:1], 200, 0),)
    alike = replace(small, labels=None, held_out={digits.INPUT: rows}, expected=expected)
    described, measured, _ = _make(alike, tmp_path)
    assert described.gates["judged"] is False
    assert any(told.startswith("quality could not be judged") for told in measured.warnings)
    assert measured.comparisons == ()
    assert [one.artefact.recipe for one in standings(described, measured) if one.may_serve] == ["fp32"]
    demanding = replace(_INT8, demanded=frozenset({"int8-cpu"}))
    with pytest.raises(GateError, match="int8-cpu not made: quality could not be judged, since"):
        _make(alike, tmp_path, demanding)


def test_above_what_one_score_names_class_1_stands_in_the_manifest(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "compare_speed", _timed([2.0]))
    model = models.mlp((4, 8, 1))
    rows = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    with closing(OnnxRuntimeEngine(model)) as engine:
        answers = trial.answers(engine, {"x": rows})
    prepared = Prepared(model, {"x": rows}, {"x": rows + 0}, answers[0][:, 0] > 0, answers, {})
    described, measured, _ = _make(prepared, tmp_path, _wished(task="classification"))
    assert (described.gates["metric"], described.gates["threshold"]) == ("accuracy", 0.0)
    assert any("was taken for a logit" in told for told in measured.warnings)


def test_labels_that_cannot_be_are_refused(tmp_path: Path, small: Prepared) -> None:
    assert small.labels is not None
    labels = small.labels.copy()
    labels[5] = 12
    with pytest.raises(DataError, match=r"label 12 in held-out row 5 is out of range: .* are 0 to 9"):
        _make(replace(small, labels=labels), tmp_path)


def test_one_row_at_a_time_is_timed_so(tmp_path: Path, small: Prepared) -> None:
    described, measured, _ = _make(small, tmp_path, replace(_INT8, max_batch_size=1))
    assert described.gates["batch_sizes"] == "1"
    assert [speed.rows for speed in measured.comparisons[0].speeds] == [1]


def test_a_recipe_for_a_gpu_is_judged_and_not_timed(tmp_path: Path, small: Prepared) -> None:
    plan = Plan(chosen(("int8-tensorrt",), ("tensorrt",)))
    described, measured, _ = _make(small, tmp_path, plan)
    (_, made), (comparison,) = described.artefacts, measured.comparisons
    assert (made.target, made.passed) == ("tensorrt", True)
    assert (comparison.passed, comparison.speeds) == (True, ())
    assert (tmp_path / made.file).exists()


def test_the_same_again_is_the_same_manifest_however_fast_the_machine_is(
    tmp_path: Path, small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(chosen(("int8-cpu", "int8-cpu-percentile"), ("cpu",)))
    made = []
    for name, ratios in (("one", [1.01, 1.01, 2.0]), ("other", [3.0, 1.5])):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(trial, "compare_speed", _timed(ratios))
        described, measured, _ = _make(small, tmp_path / name, plan)
        order = [one.artefact.recipe for one in standings(described, measured) if one.may_serve]
        made.append((order, (tmp_path / name / "manifest.json").read_bytes()))
    (slow, one), (fast, other) = made
    assert (slow, fast) == (["fp32", "int8-cpu-percentile"], ["fp32", "int8-cpu", "int8-cpu-percentile"])
    assert one == other


def test_another_machine_measures_speed_anew_and_nothing_else(
    tmp_path: Path, small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "compare_speed", _timed([3.0]))
    plan = Plan(chosen(("int8-cpu", "int8-tensorrt"), ("cpu", "tensorrt")))
    described, measured, _ = _make(small, tmp_path, plan)
    monkeypatch.setattr(trial, "compare_speed", _timed([1.0, 1.0]))
    monkeypatch.setattr(report, "machine", lambda: {"processor": "another"})
    held_out = small.held_out
    source = Source(Recipe("small", {}), (), lambda folder, stages: small, lambda model, facts: held_out)
    pipeline.measure(source, described, measured, tmp_path, lambda step, fraction: None)
    again = report.read(tmp_path)
    assert again is not None
    assert again.machine == {"processor": "another"}
    assert (again.warnings, again.conversion_error) == (measured.warnings, measured.conversion_error)
    assert [(one.passed, one.speed_ratio) for one in again.comparisons] == [(False, 1.0), (True, None)]
    kept = [replace(one, speeds=(), passed=True, verdict="") for one in again.comparisons]
    assert kept == [replace(one, speeds=(), passed=True, verdict="") for one in measured.comparisons]


def _timed(ratios: list[float]) -> Callable[..., tuple[Speed, ...]]:
    """Return a measurement that finds these ratios, one after the other."""
    left = iter(ratios)
    return lambda reference, candidate, rows, sizes: (Speed(sizes[-1], next(left), 1.0),)


def test_what_is_of_other_operators_is_no_work_for_tensorrt(tmp_path: Path, small: Prepared) -> None:
    plan = Plan(chosen(("int8-tensorrt",), ("tensorrt",)), builds_plans=True)
    described, measured, _ = _make(replace(small, cpu_only=("TreeEnsembleClassifier",)), tmp_path, plan)
    _, refused = described.artefacts
    assert refused.reason == "does not fit this model: TensorRT has nothing for TreeEnsembleClassifier"
    assert any(warning.startswith("for CPUs alone") for warning in measured.warnings)


@pytest.mark.parametrize(("builds_plans", "is_same"), [(True, True), (True, False), (False, True)])
def test_another_form_for_tensorrt_has_to_answer_the_same(
    tmp_path: Path, small: Prepared, builds_plans: bool, is_same: bool
) -> None:
    standard = tmp_path / "model.standard.onnx"
    model = onnx.load(small.model)
    if not is_same:
        weights = model.graph.initializer[0]
        weights.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weights), weights.name))
    onnx.save(model, standard)
    plan = replace(_INT8, builds_plans=builds_plans)
    described, _, _ = _make(replace(small, standard=standard), tmp_path, plan)
    assert standard.exists() == (builds_plans and is_same)
    forms = [made.passed for made in described.artefacts if made.file == standard.name]
    assert forms == ([is_same] if builds_plans else [])
