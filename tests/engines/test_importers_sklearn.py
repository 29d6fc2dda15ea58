from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from classical_models import FEATURES, ROWS, THREE, TWO, VALUES, assert_faithful
from ml_models import operators
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.datasets import load_diabetes, load_digits, load_wine
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC

from headrace_engines.errors import InputError, UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.sklearn import SklearnImporter, convert

_RANDOM = np.random.default_rng(0)


def _importer(estimator: Any) -> SklearnImporter:
    return SklearnImporter(estimator, ImportOptions(), "")


def _perceptron(activation: str = "relu", hidden: tuple[int, ...] = (7,)) -> MLPClassifier:
    return MLPClassifier(hidden, activation=activation, max_iter=20, tol=1.0, random_state=0)


_REGRESSORS = [
    LinearRegression(),
    Ridge(),
    ElasticNet(),
    SGDRegressor(random_state=0),
    PoissonRegressor(),
    MLPRegressor(hidden_layer_sizes=(8,), max_iter=30, tol=1.0, random_state=0),
    SVR(),
    SVR(kernel="poly"),
    LinearSVR(),
    KNeighborsRegressor(),
    GaussianProcessRegressor(),
    PLSRegression(2),
    AdaBoostRegressor(n_estimators=4, random_state=0),
    VotingRegressor([("a", LinearRegression()), ("b", Ridge(10))]),
    make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge()),
]
_CLASSIFIERS = [
    LogisticRegression(),
    SGDClassifier(loss="log_loss", random_state=0),
    SGDClassifier(loss="modified_huber", random_state=0),
    SGDClassifier(random_state=0),
    RidgeClassifier(),
    Perceptron(),
    LinearSVC(),
    SVC(),
    SVC(kernel="sigmoid"),
    NuSVC(nu=0.1),
    _perceptron(),
    KNeighborsClassifier(),
    GaussianNB(),
    BernoulliNB(),
    LinearDiscriminantAnalysis(),
    QuadraticDiscriminantAnalysis(),
    OneVsRestClassifier(LogisticRegression()),
    CalibratedClassifierCV(LogisticRegression(), cv=2),
    AdaBoostClassifier(n_estimators=4, random_state=0),
    BaggingClassifier(n_estimators=3, random_state=0),
    StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]),
    VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft", weights=[1, 3]),
    GradientBoostingClassifier(n_estimators=4, init="zero"),
    make_pipeline(StandardScaler(), PCA(3), LogisticRegression()),
    make_pipeline(SelectKBest(k=3), VarianceThreshold(), MinMaxScaler(), LogisticRegression()),
    make_pipeline(SimpleImputer(), RobustScaler(), Normalizer(), LogisticRegression()),
    make_pipeline(QuantileTransformer(n_quantiles=20), LogisticRegression()),
    make_pipeline(PowerTransformer(), TruncatedSVD(3), LogisticRegression()),
    make_pipeline(KBinsDiscretizer(3, encode="ordinal"), LogisticRegression()),
]


_VOTERS = [("a", LogisticRegression()), ("b", GaussianNB()), ("c", BernoulliNB())]


@pytest.mark.parametrize("loss", ["log_loss", "modified_huber"])
def test_the_label_is_told_by_scores_where_probabilities_are_the_same(loss: str, tmp_path: Path) -> None:
    estimator = SGDClassifier(loss=loss, random_state=0).fit(ROWS * 100, THREE)
    if np.isnan(estimator.predict_proba(ROWS * 100)).any():
        pytest.skip("this scikit-learn answers with NaN where no class is likely")
    assert_faithful(_importer(estimator), tmp_path, {"input": ROWS * np.float32(100)})


@pytest.mark.parametrize("weights", [None, [1, 2, 5]])
def test_the_most_votes_are_the_label(weights: Any, tmp_path: Path) -> None:
    estimator = VotingClassifier(_VOTERS, weights=weights).fit(ROWS, THREE * 3 - 1)
    found = assert_faithful(_importer(estimator), tmp_path, {"input": ROWS})
    assert [output.name for output in found["cpu"].graph.output] == ["label"]


@pytest.mark.parametrize("estimator", _REGRESSORS, ids=lambda each: type(each).__name__)
def test_a_regressor_predicts_as_before(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(ROWS, np.abs(VALUES))
    found = assert_faithful(_importer(estimator), tmp_path, {"input": ROWS * np.float32(1.1)})
    assert [output.name for output in found["cpu"].graph.output] == ["prediction"]


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        MLPRegressor(hidden_layer_sizes=(8,), max_iter=30, tol=1.0, random_state=0),
        KNeighborsRegressor(),
        RandomForestRegressor(5, random_state=0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_several_values_are_columns_of_one_prediction(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(ROWS, np.stack([VALUES, -2 * VALUES, ROWS[:, 0]], axis=1))
    assert_faithful(_importer(estimator), tmp_path, {"input": ROWS * np.float32(1.1)})


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("estimator", _CLASSIFIERS, ids=lambda each: type(each).__name__)
def test_a_classifier_answers_as_before(estimator: Any, labels: Any, tmp_path: Path) -> None:
    estimator.fit(ROWS, labels)
    found = assert_faithful(_importer(estimator), tmp_path, {"input": ROWS * np.float32(1.1)})
    scores = "probabilities" if hasattr(estimator, "predict_proba") else "scores"
    assert [output.name for output in found["cpu"].graph.output] == ["label", scores]


@pytest.mark.parametrize(
    ("load", "estimator"),
    [
        (load_digits, make_pipeline(MaxAbsScaler(), LogisticRegression())),
        (load_digits, make_pipeline(StandardScaler(), PCA(20), SVC())),
        (load_wine, make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0))),
        (load_wine, KNeighborsClassifier()),
        (load_diabetes, LinearRegression()),
        (load_diabetes, HistGradientBoostingRegressor(max_iter=10)),
    ],
    ids=lambda each: getattr(each, "__name__", type(each).__name__),
)
def test_real_data_are_answered_as_before(load: Any, estimator: Any, tmp_path: Path) -> None:
    rows, labels = load(return_X_y=True)
    estimator.fit(rows[:500], labels[:500])
    assert_faithful(_importer(estimator), tmp_path, {"input": rows.astype(np.float32)})


@pytest.mark.filterwarnings("ignore:.*probability.*")
@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_a_machine_with_probabilities_couples_them_as_before(
    kernel: str, labels: Any, tmp_path: Path
) -> None:
    estimator = SVC(kernel=kernel, probability=True, random_state=0).fit(ROWS, labels)
    assert_faithful(_importer(estimator), tmp_path, {"input": ROWS * np.float32(1.1)})


@pytest.mark.parametrize(
    "estimator", [KMeans(3, n_init=1, random_state=0), IsolationForest(n_estimators=5, random_state=0)]
)
def test_what_is_neither_gives_labels_and_scores(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(ROWS)
    found = assert_faithful(_importer(estimator), tmp_path, {"input": ROWS})
    assert [output.name for output in found["cpu"].graph.output] == ["label", "scores"]


def test_linear_models_become_gemm_with_biases_of_one_dimension() -> None:
    estimator = make_pipeline(StandardScaler(), _perceptron()).fit(ROWS, THREE)
    model = convert(estimator, input_name="x", output_name="y")
    assert [name for name in operators(model) if name in ("Gemm", "Relu", "Softmax")] == [
        "Gemm",
        "Relu",
        "Gemm",
        "Softmax",
    ]
    constants = {constant.name: constant for constant in model.graph.initializer}
    assert {constant.data_type for constant in constants.values()} == {onnx.TensorProto.FLOAT}
    biases = [constants[node.input[2]] for node in model.graph.node if node.op_type == "Gemm"]
    assert [len(bias.dims) for bias in biases] == [1, 1]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "y"]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
def test_classes_are_told_in_the_order_of_their_probabilities(text: bool, tmp_path: Path) -> None:
    names = np.array(["dog", "cat", "owl"] if text else [30, 10, 20])
    importer = _importer(LogisticRegression().fit(ROWS, names[THREE]))
    found = assert_faithful(importer, tmp_path, {"input": ROWS})
    outputs = [output.name for output in found["cpu"].graph.output]
    assert outputs == (["probabilities"] if text else ["label", "probabilities"])
    assert importer.facts["classes"] == json.dumps(sorted(names.tolist()))
    assert importer.facts["task"] == "classification"


def test_text_goes_in_as_text(tmp_path: Path) -> None:
    texts = np.array(["good film", "bad film", "very good", "very bad film"] * 3)
    for vectoriser in (CountVectorizer(), TfidfVectorizer()):
        estimator = make_pipeline(vectoriser, LogisticRegression()).fit(texts, [1, 0, 1, 0] * 3)
        rows = {"input": texts.reshape(-1, 1).astype(object)}
        assert_faithful(_importer(estimator), tmp_path, rows, left={"ai.onnx.ml.LabelEncoder"})


def test_a_search_is_its_best_estimator(tmp_path: Path) -> None:
    from headrace_engines.importers.sklearn import open_source

    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2).fit(ROWS, VALUES)
    joblib.dump(search, tmp_path / "search.joblib")
    importer = open_source(tmp_path / "search.joblib", ImportOptions(is_trusted=True))
    assert importer.facts["class"] == "Ridge"
    assert_faithful(importer, tmp_path, {"input": ROWS})


@pytest.mark.parametrize(
    "scaler",
    [StandardScaler(), RobustScaler(), MinMaxScaler(), StandardScaler(with_mean=False), MinMaxScaler((1, 3))],
    ids=str,
)
def test_large_numbers_that_differ_little_are_scaled_as_before(scaler: Any, tmp_path: Path) -> None:
    dates = 1.7e9 + 1e6 * ROWS[:, :1].astype(np.float64)
    rows = np.hstack([dates, 2000 + ROWS[:, 1:]]).astype(np.float32)
    estimator = make_pipeline(scaler, Ridge()).fit(rows.astype(np.float64), VALUES)
    if "with_mean=False" in str(scaler) or scaler.get_params().get("feature_range") == (1, 3):
        rows = ROWS  # these do not bring such numbers near zero
        estimator = make_pipeline(scaler, Ridge()).fit(rows.astype(np.float64), VALUES)
    assert_faithful(_importer(estimator), tmp_path, {"input": rows})


def test_columns_of_a_matrix_are_prepared_inside_the_graph(tmp_path: Path) -> None:
    codes = _RANDOM.integers(0, 4, size=(len(ROWS), 2))
    rows = np.hstack([ROWS, codes]).astype(np.float32)
    rows[::7, 0] = np.nan
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = ColumnTransformer(
        [
            ("numbers", numbers, [0, 1, 2]),
            ("one-hot", OneHotEncoder(handle_unknown="ignore"), [FEATURES]),
            ("ordinal", OrdinalEncoder(), [FEATURES + 1]),
        ],
        remainder="passthrough",
    )
    estimator = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(rows, THREE)
    assert_faithful(_importer(estimator), tmp_path, {"input": rows})


@pytest.mark.parametrize(
    ("estimator", "labels", "complaint"),
    [
        (_perceptron(), np.eye(3, dtype=int)[THREE], "several labels at once"),
        (make_pipeline(FunctionTransformer(np.sin), Ridge()), VALUES, "FunctionTransformer|Pipeline cannot"),
        (VotingClassifier(_VOTERS), np.array(list("abc"))[THREE], "labels alone, and these are text: train"),
    ],
    ids=["several labels", "a function", "labels that are text alone"],
)
def test_what_cannot_be_converted_is_refused_by_name(
    estimator: Any, labels: Any, complaint: str, tmp_path: Path
) -> None:
    estimator.fit(ROWS, labels)
    with pytest.raises(UnsupportedModelError, match=complaint):
        _importer(estimator).convert(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_probabilities_needs_a_fitted_classifier() -> None:
    with pytest.raises(UnsupportedModelError, match="MLPClassifier was not fitted"):
        convert(_perceptron(), input_name="x", output_name="y")
    with pytest.raises(UnsupportedModelError, match="Ridge gives no probabilities"):
        convert(Ridge().fit(ROWS, VALUES), input_name="x", output_name="y")


def test_rows_that_the_estimator_does_not_take_are_the_callers_fault() -> None:
    importer = _importer(make_pipeline(MaxAbsScaler(), Ridge()).fit(ROWS, VALUES))
    with pytest.raises(InputError, match=r"Pipeline does not take these rows: .*NaN"):
        importer.answers({"input": np.full((1, FEATURES), np.nan, np.float32)})
