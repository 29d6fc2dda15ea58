"""Whatever a configuration says, it is read or refused: with ConfigError, and nothing else."""

from __future__ import annotations

import contextlib
import json

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.models.model_config import from_json, read
from headrace_server.models.model_config_problems import ConfigError

Values = st.SearchStrategy[object]

JUNK = st.recursive(
    st.sampled_from([None, True, -5, 1.5, 1e400, 2**64, "", "\ud800", "../x", "TYPE_FP32"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("name"), inner, max_size=1),
    max_leaves=3,
)


def objects_of(described: Descriptor) -> Values:
    """Make objects of a message's names; each value is one that the field might have, or any other."""
    if not described.fields:
        return st.just({})
    fields = {field.name: field for field in described.fields}
    return st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: values_of(fields[name]) | JUNK for name in names})
    )


def values_of(field: FieldDescriptor) -> Values:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        values = values_of(inner.fields_by_name["value"])
        return st.dictionaries(st.sampled_from(["1", "x"]), values, max_size=2)
    if inner is not None:
        single = objects_of(inner)
    elif field.enum_type is not None:
        single = st.sampled_from([*field.enum_type.values_by_name, 0, 9])
    else:
        single = st.sampled_from([0, 1, -1, 2**63, "x", "row", "labels.txt", True])
    return st.lists(single, max_size=2) if field.is_repeated else single


@settings(max_examples=300, deadline=None)
@given(document=objects_of(ModelConfig.DESCRIPTOR) | JUNK)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    with contextlib.suppress(ConfigError):
        from_json(json.dumps(document), tmp_path_factory.getbasetemp(), "m")


WORDS = st.sampled_from(
    [
        'name: "m"', "max_batch_size: 8", "input {", "output {", "}", 'name: "x"', "dims: -1",
        "dims: [ 2, 0 ]",
        "reshape { shape: [ ] }", "dynamic_batching {", "priority_levels: 3", "preferred_batch_size: 9",
        "instance_group {", "count: 0", "model_warmup {", "sequence_batching {", "direct { }", "oldest {",
        "control_input {", "control {", "kind: CONTROL_SEQUENCE_CORRID", "parameters {", 'key: "x"',
        "value {",
        "version_policy {", "specific {", "versions: 5", "latest {", "num_versions: 0", "optimization {",
        'label_filename: "labels.txt"', "inputs {", "data_type: TYPE_FP32", "zero_data: true",
        "batch_size: 3",
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(words=st.lists(WORDS, max_size=14))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    model = tmp_path_factory.getbasetemp() / "any"
    model.mkdir(exist_ok=True)
    (model / "config.pbtxt").write_text("\n".join(words))
    with contextlib.suppress(ConfigError):
        read(model, "m")
