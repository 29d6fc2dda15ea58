from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_engines import gates
from headrace_engines.errors import GateError
from headrace_engines.gates import Quality, Speed


def _paired(rows: int, worse: int, better: int, both_wrong: int = 0) -> Quality:
    reference, candidate = np.ones(rows, bool), np.ones(rows, bool)
    candidate[:worse] = False
    reference[worse : worse + better] = False
    reference[rows - both_wrong :] = candidate[rows - both_wrong :] = False
    labels = np.ones(rows, np.int64)
    return gates.compare("accuracy", reference.astype(np.int64), candidate.astype(np.int64), labels)


def test_only_rows_that_differ_count() -> None:
    accuracy = _paired(719, worse=5, better=2, both_wrong=17)
    assert accuracy.rows == 719
    assert accuracy.reference == pytest.approx(700 / 719)
    assert accuracy.candidate == pytest.approx(697 / 719)
    assert accuracy.loss == pytest.approx(3 / 719)


def test_the_interval_is_that_of_bonett_and_price() -> None:
    accuracy = _paired(98, worse=9, better=4)
    # (10 - 5) / 100 -+ 1.959964 * sqrt((0.15 - 0.0025) / 100)
    assert accuracy.low == pytest.approx(0.05 - 0.0752734, abs=1e-6)
    assert accuracy.high == pytest.approx(0.05 + 0.0752734, abs=1e-6)


@given(st.integers(1, 2000), st.data())
def test_the_interval_mirrors_when_the_two_change_places(rows: int, data: st.DataObject) -> None:
    worse = data.draw(st.integers(0, rows))
    better = data.draw(st.integers(0, rows - worse))
    one, other = _paired(rows, worse, better), _paired(rows, better, worse)
    assert one.low == pytest.approx(-other.high)
    assert one.high == pytest.approx(-other.low)
    assert -1 <= one.low < one.high <= 1


@pytest.mark.parametrize(("lost", "gained"), [(0.005, 0.005), (0.02, 0.005), (0.05, 0.05), (0.1, 0.02)])
def test_the_interval_holds_the_true_drop_as_often_as_it_says(lost: float, gained: float) -> None:
    rows, most = 200, 45
    covered = 0.0
    for worse, better in product(range(most), repeat=2):
        accuracy = _paired(rows, worse, better)
        if accuracy.low <= lost - gained <= accuracy.high:
            ways = comb(rows, worse) * comb(rows - worse, better)
            covered += ways * lost**worse * gained**better * (1 - lost - gained) ** (rows - worse - better)
    assert covered >= 0.94


@pytest.mark.parametrize(
    ("rows", "worse", "better"),
    [
        (719, 0, 0),
        (719, 7, 0),
        (719, 9, 4),
        (719, 0, 200),
        (1000, 10, 0),
    ],
)
def test_a_candidate_that_lost_little_passes(rows: int, worse: int, better: int) -> None:
    gates.check_quality("model.onnx", _paired(rows, worse, better))


@pytest.mark.parametrize(
    ("rows", "worse", "better", "complaint"),
    [
        (719, 8, 0, "the loss may be 1.00 at most"),
        (719, 500, 0, "the loss may be 1.00 at most"),
        (719, 40, 34, "the interval may reach 2.00 at most"),
        (50, 0, 0, "the interval may reach 2.00 at most"),
        (1, 0, 0, "the interval may reach 2.00 at most"),
    ],
)
def test_a_candidate_that_lost_too_much_or_was_seen_too_little_is_refused(
    rows: int, worse: int, better: int, complaint: str
) -> None:
    with pytest.raises(GateError, match=complaint):
        gates.check_quality("model.onnx", _paired(rows, worse, better))


def test_the_refusal_carries_the_figures() -> None:
    with pytest.raises(GateError) as raised:
        gates.check_quality("model.int8-cpu.onnx", _paired(719, 100, 0))
    assert str(raised.value) == (
        "model.int8-cpu.onnx: accuracy 0.8609, FP32 1.0000, on 719 held-out rows; "
        "loss 13.91 points, 95 % interval 11.32 to 16.42; the loss may be 1.00 at most"
    )


_RANDOM = np.random.default_rng(0)
_TARGETS = np.column_stack([_RANDOM.normal(0, 1e6, 400), _RANDOM.normal(5, 1e-3, 400)])


@pytest.mark.parametrize("metric", ["rmse", "r2", "fidelity"])
def test_a_dead_column_beside_a_large_one_is_refused_by_its_name(metric: str) -> None:
    labels = None if metric == "fidelity" else _TARGETS
    dead = _TARGETS.copy()
    dead[:, 1] = _TARGETS[:, 1].mean()
    quality = gates.compare(metric, _TARGETS, dead, labels, output="y")
    assert quality.output == "y, column 1"
    assert quality.loss == pytest.approx(1.0)
    with pytest.raises(GateError, match=r"loss 100.00 points in y, column 1, 95 % interval"):
        gates.check_quality("model.onnx", quality)
    assert gates.compare(metric, _TARGETS, _TARGETS, labels).passed


def test_the_loss_of_rmse_is_in_standard_deviations_of_the_column() -> None:
    worse = _TARGETS + np.array([0.5 * _TARGETS[:, 0].std(), 0])
    quality = gates.compare("rmse", _TARGETS, worse, _TARGETS, limit=0.9, output="y")
    assert quality.output == "y, column 0"
    assert quality.loss == pytest.approx(0.5)
    assert quality.low == pytest.approx(quality.high) == pytest.approx(0.5)


@pytest.mark.parametrize("metric", ["fidelity", "rmse", "auc"])
@pytest.mark.parametrize(("rows", "passes"), [(140, False), (160, True)])
def test_what_no_row_shows_may_have_been_missed(metric: str, rows: int, passes: bool) -> None:
    answers = _TARGETS[:rows, :1]
    labels = {"fidelity": None, "rmse": answers, "auc": (answers[:, 0] > 0).astype(int)}[metric]
    quality = gates.compare(metric, answers, answers, labels)
    assert (quality.loss, quality.low, quality.high) == (0, 0, pytest.approx(3 / rows))
    assert quality.passed == passes


def test_the_interval_holds_the_loss_that_was_measured() -> None:
    # Of classes with one row each, a draw lacks every third: its mean over them is nearer to chance.
    right, labels = np.eye(40), np.arange(40)
    lost, gained = (gates.compare("auc", *pair, labels) for pair in ((right, -right), (-right, right)))
    assert (lost.loss, lost.high) == (1, 1)
    assert (gained.loss, gained.low) == (-1, -1)


def test_what_did_not_pass_speaks_most_against_a_candidate() -> None:
    lost = replace(_paired(719, 12, 0), output="lost")
    unsure = replace(_paired(719, 40, 36), output="unsure", limit=0.02)
    assert lost.high < unsure.high
    assert (lost.passed, unsure.passed) == (False, True)
    assert gates.worst([unsure, lost]).output == "lost"
    assert gates.worst([_paired(719, 0, 0), unsure]).output == "unsure"


@pytest.mark.parametrize("rows", [(0, 0), (3, 4)])
def test_unpaired_answers_are_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected as many answers"):
        gates.compare("accuracy", np.ones(rows[0]), np.ones(rows[1]))


@pytest.mark.parametrize(("error", "passes"), [(0.0, True), (1e-5, True), (2e-5, False), (np.nan, False)])
def test_a_conversion_must_answer_like_its_source(error: float, passes: bool) -> None:
    if passes:
        gates.check_same("model.onnx", error, 1e-5)
    else:
        with pytest.raises(GateError, match=r"differ from those of the model .* by (2e-05|nan)"):
            gates.check_same("model.onnx", error, 1e-5)


def test_a_conversion_that_differs_tells_the_rows_and_what_to_do() -> None:
    with pytest.raises(GateError, match=r"in 6 of 40 held-out rows \(counted from 0: 1, 2, 3, 4, 5, ...\)"):
        gates.check_same("model.onnx", 0.3, 1e-4, [1, 2, 3, 4, 5, 6], 40)


def test_speed_is_the_geometric_mean_over_batches() -> None:
    assert gates.speed_ratio([Speed(1, 1.0, 2.0), Speed(8, 8.0, 1.0)]) == pytest.approx(2.0)


def test_what_is_no_faster_is_refused_with_each_ratio() -> None:
    gates.check_speed("model.onnx", [Speed(1, 1.0, 1.0), Speed(64, 3.0, 1.0)])
    with pytest.raises(GateError, match=r"not better: 0\.71 times .*0\.50 at batch 1, 1\.00 at batch 64"):
        gates.check_speed("model.onnx", [Speed(1, 1.0, 2.0), Speed(64, 1.0, 1.0)])
