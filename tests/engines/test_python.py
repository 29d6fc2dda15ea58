from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace_engines.declaration import Declaration
from headrace_engines.errors import ExecutionError, InputError
from headrace_engines.python_model import DTYPES
from headrace_engines.runtime.python import PythonEngine
from headrace_engines.spec import ModelSpec, TensorSpec
from headrace_engines.steps import Call, Outcome, StepEngine
from headrace_proto import tensors

FP32 = np.dtype(np.float32)

PREAMBLE = """\
import numpy as np
from headrace_engines.python_model import *
"""

DOUBLE = """
class Model:
    inputs = [Tensor("x", "FP32", [2])]
    outputs = [Tensor("y", "FP32", [2])]
    max_batch_size = 4

    def execute(self, batch):
        return {"y": 2 * batch["x"]}
"""


def engine_of(
    folder: Path,
    code: str,
    declaration: Declaration | None = None,
    *,
    most_rows: int = 64,
    version: str = "1",
) -> PythonEngine:
    path = folder / "models" / "m" / version / "model.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PREAMBLE + textwrap.dedent(code), encoding="utf-8")
    return PythonEngine(path, declaration or Declaration(), max_batch_size=most_rows, version=version)


def with_execute(body: str, *, batches: bool = True, decoupled: bool = False, datatype: str = "FP32") -> str:
    """Return a program with one input `x` of any length, one output `y`, and this body of `execute`."""
    return f"""
class Model:
    inputs = [Tensor("x", "FP32", [ANY])]
    outputs = [Tensor("y", "{datatype}", [ANY])]
    max_batch_size = {8 if batches else 0}
    decoupled = {decoupled}

    def execute(self, batch):
""" + textwrap.indent(textwrap.dedent(body), "        ")


def call(name: str = "a", *rows: list[float]) -> Call:
    return Call(name, len(rows), {"x": np.array(rows, np.float32)})


def outputs_of(outcomes: list[Outcome]) -> list[Any]:
    """Return what each outcome holds of the first output."""
    found = []
    for outcome in outcomes:
        assert isinstance(outcome.outputs, tuple), outcome
        found.append(outcome.outputs[0].tolist())
    return found


def test_a_batch_is_answered_by_one_array(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, DOUBLE)
    outcomes = list(engine.execute([call("a", [1, 2], [3, 4]), call("b", [5, 6])]))
    assert outputs_of(outcomes) == [[[2, 4], [6, 8]], [[10, 12]]]
    assert [(outcome.call, outcome.final) for outcome in outcomes] == [(0, True), (1, True)]


def test_it_is_a_step_engine_and_says_what_the_class_declares(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, DOUBLE)
    assert isinstance(engine, StepEngine)
    assert engine.platform == "python"
    assert not engine.is_decoupled
    assert engine.spec == ModelSpec(
        (TensorSpec("x", FP32, (2,)),), (TensorSpec("y", FP32, (2,)),), 4, takes_any_bytes=True
    )


def test_the_servers_limit_bounds_the_rows(tmp_path: Path) -> None:
    assert engine_of(tmp_path, DOUBLE, most_rows=3).spec.max_batch_size == 3


def test_without_a_batch_axis_a_request_comes_alone_in_its_own_shape(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, with_execute('return {"y": batch["x"] + 1}', batches=False))
    assert outputs_of(list(engine.execute([Call("a", 1, {"x": np.zeros(3, np.float32)})]))) == [[1, 1, 1]]


@pytest.mark.parametrize("listed", ["return [{}]", "yield from [{}]"], ids=["a list", "a generator"])
def test_single_responses_in_any_order(tmp_path: Path, listed: str) -> None:
    responses = 'Response(r, {"y": r.inputs["x"] * r.rows}) for r in reversed(batch.requests)'
    engine = engine_of(tmp_path, with_execute(listed.format(responses)))
    outcomes = list(engine.execute([call("a", [1], [2]), call("b", [5])]))
    assert [(outcome.call, outcome.final) for outcome in outcomes] == [(1, True), (0, True)]
    assert outputs_of(outcomes) == [[[5]], [[2], [4]]]


def test_a_decoupled_program_answers_none_one_and_many(tmp_path: Path) -> None:
    body = """
    for r in batch.requests:
        for n in range(int(r.inputs["x"][0, 0])):
            yield Response(r, {"y": [[n]]}, final=r.id == "b")
    """
    engine = engine_of(tmp_path, with_execute(body, decoupled=True, datatype="INT64"))
    outcomes = list(engine.execute([call("a", [2]), call("b", [1]), call("c", [0])]))
    assert engine.is_decoupled
    assert [(outcome.call, outcome.final) for outcome in outcomes] == [
        (0, False), (0, False), (1, True), (0, True), (2, True),
    ]  # fmt: skip
    assert outputs_of(outcomes[:3]) == [[[0]], [[1]], [[0]]]
    assert [outcome.outputs for outcome in outcomes[3:]] == [None, None]


def test_responses_come_while_the_program_goes_on(tmp_path: Path) -> None:
    body = """
    for n in range(10**9):
        yield Response(batch.requests[0], {"y": [[n]]})
    """
    stream = engine_of(tmp_path, with_execute(body, decoupled=True, datatype="INT64")).execute(
        [call("a", [1])]
    )
    assert outputs_of([next(stream), next(stream)]) == [[[0]], [[1]]]
    stream.close()


def test_a_generator_that_is_read_no_further_is_closed(tmp_path: Path) -> None:
    body = """
    try:
        yield Response(batch.requests[0], {"y": [[1]]})
    finally:
        self.closed = True
    """
    engine = engine_of(tmp_path, with_execute(body, decoupled=True, datatype="INT64"))
    stream = engine.execute([call("a", [1])])
    next(stream)
    stream.close()
    assert engine._model.closed


def test_the_program_sees_requests_with_all_that_came(tmp_path: Path) -> None:
    body = """
    r = batch.requests[0]
    self.seen = (r.id, r.rows, r.parameters["k"], r.sequence, r.abandoned, batch.rows, "z" in batch)
    return {"y": batch["x"]}
    """
    engine = engine_of(tmp_path, with_execute(body))
    list(engine.execute([Call("a", 1, {"x": np.ones((1, 1), np.float32)}, {"k": 7})]))
    assert engine._model.seen == ("a", 1, 7, None, False, 1, False)


def test_the_program_sees_at_once_that_a_caller_has_gone(tmp_path: Path) -> None:
    body = """
    r = batch.requests[0]
    while not r.abandoned:
        yield Response(r, {"y": [[1]]})
    """
    gone: list[bool] = []
    engine = engine_of(tmp_path, with_execute(body, decoupled=True, datatype="INT64"))
    stream = engine.execute([Call("a", 1, {"x": np.ones((1, 1), np.float32)}, has_left=lambda: bool(gone))])
    assert not next(stream).final
    gone.append(True)
    assert [outcome.final for outcome in stream] == [True]


@pytest.mark.parametrize("requests", [1, 2])
def test_inputs_cannot_be_written_to(tmp_path: Path, requests: int) -> None:
    engine = engine_of(tmp_path, with_execute('batch["x"][0] = 9; return {"y": batch["x"]}'))
    calls = [call("a", [1.0]) for _ in range(requests)]
    for one in calls:
        one.inputs["x"].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        list(engine.execute(calls))


@pytest.mark.parametrize(
    ("datatype", "answer", "expected"),
    [
        pytest.param("FP32", "np.ones((1, 1), np.float16)", np.float32(1), id="wider float"),
        pytest.param("INT64", "[[True]]", 1, id="bool as a number"),
        pytest.param("FP64", "[[1]]", 1.0, id="whole number as FP64"),
        pytest.param("BF16", "np.ones((1, 1), np.int8)", ml_dtypes.bfloat16(1), id="BF16"),
        pytest.param("FP32", "np.ones((1, 1), '>f4')", np.float32(1), id="other byte order"),
        pytest.param("BYTES", "[['a']]", "a", id="text"),
        pytest.param("BYTES", "[[b'a\\0']]", b"a\0", id="bytes with a zero at the end"),
        pytest.param("BYTES", "np.array([[b'ab']])", b"ab", id="NumPy's fixed-width bytes"),
    ],
)
def test_answers_that_convert_without_loss(tmp_path: Path, datatype: str, answer: str, expected: Any) -> None:
    engine = engine_of(tmp_path, with_execute(f'return {{"y": {answer}}}', datatype=datatype))
    (outcome,) = engine.execute([call("a", [1])])
    assert isinstance(outcome.outputs, tuple)
    (array,) = outcome.outputs
    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == [[expected]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "the program answered NoneType: outputs by name, or Responses, expected"),
        ("return {}", "the program answered nothing, and its outputs are 'y'"),
        ('return {"y": 1, "z": 2}', "the program answered 'y', 'z', and its outputs are 'y'"),
        ('return {"y": [[1], [1, 2]]}', "output 'y': no array came"),
        ('return {"y": [[1]]}', r"output 'y': shape \[1, 1\] came, \[2, any\] expected, rows first"),
        ('return {"y": batch["x"][0]}', r"output 'y': shape \[1\] came, \[2, any\] expected, rows first"),
        ('return {"y": [[0.5], [0.5]]}', "output 'y': dtype float64 came, float32 expected"),
        ('return {"y": [["a"], ["b"]]}', "output 'y': dtype <U1 came, float32 expected"),
        ('return [{"y": batch["x"]}]', "the program gave a dict, a Response expected"),
        ("return batch.requests", "the program gave a Call, a Response expected"),
        (
            'return [Response(Request("b", 1, {}), {"y": batch["x"]})]',
            "the program gave a response to a request that is not in its batch",
        ),
        (
            'return [Response(batch.requests[0], {"y": batch["x"][:1]}) for _ in range(2)]',
            "request 'a' had its last response, and got another",
        ),
    ],
)
def test_an_answer_that_is_not_as_declared_fails_its_batch(tmp_path: Path, body: str, message: str) -> None:
    engine = engine_of(tmp_path, with_execute(body))
    with pytest.raises(ExecutionError, match=message):
        list(engine.execute([call("a", [1]), call("b", [1])]))
    with pytest.raises(ExecutionError, match=message):
        list(engine.execute([call("a", [1]), call("b", [1])]))


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ('Response(r, {"y": [[1.0, 2.0]] * 2})', "shape .* came"),
        ('Response(r, {"y": [[1.0]]})', "dtype float64 came"),
        ("Response(r, final=True)", "the program gave a response without outputs"),
        ('Response(r, error=InputError("x is odd"))', "x is odd"),
    ],
)
def test_a_wrong_response_fails_its_own_request_alone(tmp_path: Path, response: str, message: str) -> None:
    body = f"""
    for r in batch.requests:
        yield Response(r, {{"y": r.inputs["x"]}}) if r.id == "good" else {response}
    """
    engine = engine_of(tmp_path, with_execute(body))
    bad, good = engine.execute([call("bad", [1]), call("good", [2])])
    assert isinstance(bad.outputs, ExecutionError)
    with pytest.raises(ExecutionError, match=message):
        raise bad.outputs
    assert outputs_of([good]) == [[[2]]]


def test_what_follows_a_wrong_response_is_passed_over(tmp_path: Path) -> None:
    body = 'yield from [Response(batch.requests[0], {"y": v}) for v in ("wrong", [[1]])]'
    engine = engine_of(tmp_path, with_execute(body, decoupled=True, datatype="INT64"))
    (outcome,) = engine.execute([call("a", [1])])
    assert isinstance(outcome.outputs, ExecutionError)


def test_a_program_that_goes_on_for_a_failed_request_alone_is_closed(tmp_path: Path) -> None:
    body = """
    while True:
        yield Response(batch.requests[0], {"y": "wrong"})
    """
    engine = engine_of(tmp_path, with_execute(body, decoupled=True))
    (outcome,) = engine.execute([call("a", [1])])
    assert isinstance(outcome.outputs, ExecutionError)


def test_a_request_without_a_response_is_told(tmp_path: Path) -> None:
    (outcome,) = engine_of(tmp_path, with_execute("return []")).execute([call("a", [1])])
    assert str(outcome.outputs) == "the program gave no response to this request"


@pytest.mark.parametrize("where", ["{}", "yield; {}"], ids=["in a function", "in a generator"])
@pytest.mark.parametrize("exit_", ["raise SystemExit(3)", "raise KeyboardInterrupt"])
def test_an_exit_is_a_failure_of_the_batch(tmp_path: Path, where: str, exit_: str) -> None:
    engine = engine_of(tmp_path, with_execute(where.format(exit_)))
    with pytest.raises((RuntimeError, ExecutionError)):
        list(engine.execute([call("a", [1])]))


@pytest.mark.parametrize(
    "body",
    [
        'return {"y": Exits()}',
        'return [Response(batch.requests[0], {"y": Exits()})]',
        "return Exits()",
        "yield from Exits()",
        """
        try:
            yield "no response"
        finally:
            raise SystemExit(3)
        """,
        "raise GeneratorExit",
    ],
    ids=["array", "array of one", "iterable", "iterable in a generator", "at its end", "GeneratorExit"],
)
def test_an_exit_is_contained_wherever_it_comes(tmp_path: Path, body: str) -> None:
    exits = """
    class Exits:
        def __array__(self, *_, **__):
            raise SystemExit(3)

        def __iter__(self):
            raise SystemExit(3)
    """
    engine = engine_of(tmp_path, textwrap.dedent(exits) + with_execute(body))
    with pytest.raises(RuntimeError, match="the program raised"):
        list(engine.execute([call("a", [1])]))


def test_an_exit_of_a_generator_that_is_read_no_further_is_contained(tmp_path: Path) -> None:
    body = """
    try:
        yield Response(batch.requests[0], {"y": batch["x"]})
    finally:
        raise SystemExit(3)
    """
    stream = engine_of(tmp_path, with_execute(body)).execute([call("a", [1])])
    assert outputs_of([next(stream)]) == [[[1]]]
    with pytest.raises(RuntimeError, match="the program raised SystemExit"):
        stream.close()


@pytest.mark.parametrize("error", ["ValueError", "InputError", "ExecutionError"])
def test_what_the_program_raises_comes_out_as_it_is(tmp_path: Path, error: str) -> None:
    engine = engine_of(tmp_path, with_execute(f'raise {error}("too long")'))
    with pytest.raises((ValueError, InputError, ExecutionError), match="too long") as raised:
        list(engine.execute([call("a", [1])]))
    assert type(raised.value).__name__ == error


def test_the_datatypes_are_the_protocols() -> None:
    assert {name: dtype.newbyteorder("=") for name, dtype in tensors.DTYPES.items()} == DTYPES
