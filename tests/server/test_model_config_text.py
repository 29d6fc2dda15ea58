from __future__ import annotations

import json

import pytest
from google.protobuf import json_format, text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.models.model_config_json import read_json
from headrace_server.models.model_config_text import read_text


def problems(text: str) -> list[str]:
    return [str(problem) for problem in read_text(text, "c").problems]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing but a comment",
        'name: "a"',
        "name: 'a' 'b' \"c\"",
        'name: "a",\nmax_batch_size : 8; platform: "x"',
        "max_batch_size: 0x10",
        "input { name: 'x' dims: 1 dims: 2 }",
        "input < name: 'x' dims: [ 1, -1 ] >",
        "input: [ { name: 'x' }, { name: 'y' } ] input { name: 'z' }",
        "input [ ]",
        "input { data_type: TYPE_FP32 } input { data_type: 11 }",
        "input { reshape: { shape: [ ] } optional: true }",
        "parameters: { key: 'a' value: { string_value: 'b' } } parameters { value { } key: 'c' }",
        "metric_tags { key: 'a' value: 'b' }",
        "dynamic_batching { } version_policy: { all { } }",
        "dynamic_batching { priority_queue_policy { key: 2 value { max_queue_size: 3 } } }",
        "sequence_batching { direct { minimum_slot_utilization: .5 } }",
        "sequence_batching { direct { minimum_slot_utilization: 1e-1f } }",
        'name: "\\303\\244\\n\\x41 ä"',
    ],
)
def test_a_text_is_read_as_protobuf_reads_it(text: str) -> None:
    document = read_text(text, "c")
    assert document.problems == []
    assert document.message == text_format.Parse(text, ModelConfig())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch: 8", ["c:1: max_batch: there is no such field; did you mean max_batch_size?"]),
        (
            "\n\nmax_batch_size: 8.5",
            ["c:3: max_batch_size: 8.5 is not a whole number"],
        ),
        (
            "max_batch_size: 99999999999",
            ["c:1: max_batch_size: 99999999999 is too large: 2147483647 is the most"],
        ),
        (
            "max_batch_size: -99999999999",
            ["c:1: max_batch_size: -99999999999 is too small: -2147483648 is the least"],
        ),
        (
            "input {\n data_type: TYPE_FLOAT\n}",
            [
                "c:2: input[0].data_type: TYPE_FLOAT is not one of TYPE_BOOL, TYPE_UINT8, "
                "TYPE_UINT16, TYPE_UINT32, TYPE_UINT64, TYPE_INT8, TYPE_INT16, TYPE_INT32, TYPE_INT64, "
                "TYPE_FP16, TYPE_FP32, TYPE_FP64, TYPE_STRING, TYPE_BF16; did you mean TYPE_FP32?"
            ],
        ),
        ("name: digits", ['c:1: name: digits is not a text in quotes; write "digits"']),
        (
            "input { optional: yes }\ninput { optional: 2 }",
            [
                "c:1: input[0].optional: yes is not true or false",
                "c:2: input[1].optional: 2 is not true or false",
            ],
        ),
        (
            'name: "a"\nname: "b"',
            ["c:2: name: given twice, first in line 1; keep one of them"],
        ),
        (
            "dynamic_batching { }\nsequence_batching { }",
            ["c:2: sequence_batching: dynamic_batching is given as well; keep one of the two"],
        ),
        (
            "parameters { key: 'a' value { } }\nparameters { key: 'a' value { } }",
            ['c:2: parameters["a"]: given twice, first in line 1; keep one of them'],
        ),
        (
            "metric_tags { value: 'b' }",
            ['c:1: metric_tags: an entry has no key; write { key: "…" value: … }'],
        ),
        (
            "foo { bar: [ { a: 1 }, < b: '}' > ] }\nbaz: 'x' 'y'\nmax_batch_size: x",
            [
                "c:1: foo: there is no such field",
                "c:2: baz: there is no such field",
                "c:3: max_batch_size: x is not a whole number",
            ],
        ),
        (
            "mx_batch_size: 1\ninput {\n name: 'x'\n",
            [
                "c:1: mx_batch_size: there is no such field; did you mean max_batch_size?",
                "c:4: not protobuf's text format: the text ends where '}' is expected",
            ],
        ),
        ("max_batch_size 8", ["c:1: not protobuf's text format: ':' is expected after max_batch_size"]),
        ("max_batch_size:\n}", ["c:2: not protobuf's text format: a value is expected for max_batch_size"]),
        ("input: 3", ["c:1: not protobuf's text format: '{' is expected"]),
        ("}", ["c:1: not protobuf's text format: Expected identifier or number, got }"]),
        ('name: "a', ["c:1: not protobuf's text format: String missing ending quote"]),
    ],
)
def test_every_problem_has_its_line_and_field(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected)
    assert all(line.startswith(wanted) for line, wanted in zip(found, expected, strict=True)), found


def test_a_syntax_error_says_what_is_wrong_and_not_the_whole_line() -> None:
    (told,) = problems("platform: 'a' ': ' {")
    assert told == "c:1: not protobuf's text format: Expected identifier or number, got {"


def test_the_line_of_every_field_is_known() -> None:
    document = read_text(
        "input [\n  {\n    name: 'x'\n    dims: [ 1,\n 2 ]\n  }\n]\n"
        "parameters {\n  key: 'a.b'\n  value {\n    string_value: ''\n  }\n}\n"
        "dynamic_batching { priority_queue_policy {\n key: 1\n value { max_queue_size: 0 } } }",
        "c",
    )
    assert document.problems == []
    assert document.lines == {
        "input": 1,
        "input[0]": 2,
        "input[0].name": 3,
        "input[0].dims": 4,
        "input[0].dims[0]": 4,
        "input[0].dims[1]": 5,
        "parameters": 8,
        'parameters["a.b"]': 8,
        'parameters["a.b"].string_value': 11,
        "dynamic_batching": 14,
        "dynamic_batching.priority_queue_policy": 14,
        "dynamic_batching.priority_queue_policy[1]": 14,
        "dynamic_batching.priority_queue_policy[1].max_queue_size": 16,
    }


TOKENS = st.sampled_from(
    [
        "name", "input", "dims", "max_batch_size", "parameters", "key", "value", "dynamic_batching",
        "reshape", "version_policy", "latest", "specific", "foo", "data_type", "TYPE_FP32", "string_value",
        ":", "{", "}", "[", "]", "<", ">", ",", ";", "'a'", '"', "1", "-1", "0", "1e400", "true", "#", "\n",
        "/", "\\", "é",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(TOKENS, max_size=40).map(" ".join)))
def test_any_text_is_read_or_told_of(text: str) -> None:
    document = read_text(text, "c")
    try:
        parsed = text_format.Parse(text, ModelConfig())
    except text_format.ParseError:
        assert document.problems
    else:
        if not document.problems:
            assert document.message == parsed
    for problem in document.problems:
        assert 0 <= problem.line <= text.count("\n") + 1


MESSAGES = st.builds(
    lambda names, size, keys: ModelConfig(
        max_batch_size=size,
        input=[{"name": name, "dims": [len(name), -1]} for name in names],
        parameters={key: {"string_value": key} for key in keys},
    ),
    st.lists(st.text(max_size=5), max_size=3),
    st.integers(-(2**31), 2**31 - 1),
    st.lists(st.text(min_size=1, max_size=4), max_size=3),
)


@settings(max_examples=100, deadline=None)
@given(MESSAGES)
def test_what_protobuf_prints_is_read_back(message: ModelConfig) -> None:
    document = read_text(text_format.MessageToString(message), "c")
    assert (document.message, document.problems) == (message, [])
    for names in (True, False):
        told = read_json(json_format.MessageToJson(message, preserving_proto_field_name=names))
        assert (told.message, told.problems) == (message, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "config override: not JSON: Expecting value"),
        ("[" * 100_000, "config override: nested too deeply"),
        ("[]", "config override: a JSON object is expected, list came"),
        ('{"count": 1}', "count: there is no such field; it stands in instance_group or model_warmup"),
        ('{"max_batch": 1}', "max_batch: there is no such field; did you mean max_batch_size?"),
        ('{"max_batch_size": 1, "max_batch_size": 2}', "not JSON: given twice: max_batch_size"),
        ('{"max_batch_size": 1, "maxBatchSize": 2}', "max_batch_size: given twice; keep one of them"),
        ('{"input": [{"nam": "x"}]}', "input[0].nam: there is no such field; did you mean name?"),
        ('{"parameters": {"a": {"text": ""}}}', 'parameters["a"].text: there is no such field'),
        ('{"dynamic_batching": {}, "sequence_batching": {}}', "sequence_batching: dynamic_batching is given"),
        ('{"max_batch_size": "many"}', "config override: max_batch_size: "),
        ('{"input": [{"dims": {"a": 1}}]}', 'input[0].dims: {"a": 1} is not a list'),
        ('{"input": 3}', "config override: input: 3 is not a list"),
        ('{"parameters": [1]}', "config override: parameters: [1] is not an object"),
        ('{"input": ["x"]}', 'config override: input[0]: "x" is not an object'),
        ('{"name": {"a": 1}}', 'config override: name: {"a": 1} is not a text in quotes'),
        ('{"name": "\\ud800"}', "config override: not JSON: "),
        ('{"max_batch_size": Infinity}', "config override: not JSON: Infinity is no number"),
        ('{"max_batch_size": 1e400}', "config override: max_batch_size: "),
        ('{"instance_group": [{"kind": 1e400}]}', "instance_group[0].kind: Infinity is not one of"),
        ('{"instance_group": [{"kind": "5"}]}', 'instance_group[0].kind: "5" is not one of KIND_AUTO'),
        ('{"input": [{"data_type": "FLOAT"}]}', "did you mean TYPE_FP32?"),
        ('{"instance_group": [{"kind": 9}]}', "instance_group[0].kind: 9 is not one of KIND_AUTO"),
        ('{"name": 5}', "config override: name: 5 is not a text in quotes"),
        ('{"max_batch_size": "many"}', "config override: max_batch_size: many is not a whole number"),
        ('{"max_batch_size": 99999999999}', "99999999999 is too large: 2147483647 is the most"),
        ('{"input": [{"dims": [3, "x"]}]}', "config override: input[0].dims[1]: x is not a whole number"),
        ('{"metric_tags": {"a": 3}}', 'config override: metric_tags["a"]: 3 is not a text in quotes'),
    ],
)
def test_what_is_wrong_with_json_is_told(text: str, expected: str) -> None:
    told = [str(problem) for problem in read_json(text).problems]
    assert len(told) == 1
    assert expected in told[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "input", "dims", "parameters", "dynamicBatching", "priority_queue_policy", "1"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=30), JSON.map(json.dumps)))
def test_any_json_is_read_or_told_of(text: str) -> None:
    read_json(text)
