"""docs/model-configuration.md against the parser: what is shown is read, what the tables say is done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.models.model_config import examine, read
from headrace_server.models.model_config_fields import HONOURED
from headrace_server.models.model_config_problems import Problem
from headrace_server.models.model_config_text import map_values

PAGE = (Path(__file__).parents[2] / "docs" / "model-configuration.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"`models/(\w+)/config\.pbtxt`:\n\n```\n(.*?)```", PAGE, re.DOTALL))


def table(heading: str) -> dict[str, str]:
    """Return the second column of a table of fields, by the first."""
    rows = PAGE.partition(f"### {heading}\n")[2].partition("###")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| ([^|]*?) \|", rows, re.MULTILINE))


def fields_of(described: Descriptor, prefix: str = "") -> Iterator[tuple[str, ...]]:
    """Yield the path of every field that is honoured, and of what is refused as a whole."""
    for field in described.fields:
        path = prefix + field.name
        inner = (map_values(field) or field).message_type
        if path in HONOURED or inner is None or not has_honoured(path):
            yield path
        if inner is not None and has_honoured(path):
            yield from fields_of(inner, f"{path}.")


def has_honoured(path: str) -> bool:
    return any(honoured.startswith(f"{path}.") for honoured in HONOURED)


def saying(path: str) -> ModelConfig:
    """Return a configuration that says something in this field, or in the first one of what it holds."""
    config = ModelConfig()
    message: Any = config
    names = path.split(".")
    while names:
        field = message.DESCRIPTOR.fields_by_name[names.pop(0)]
        values = map_values(field)
        if (values or field).message_type is None:
            say(message, field, values)
            break
        message = entered(message, field, values)
        if not names and path not in HONOURED:
            names = [message.DESCRIPTOR.fields[0].name]
    return config


def entered(message: Any, field: FieldDescriptor, values: FieldDescriptor | None) -> Message:
    """Return the message in a field, which is there from now on."""
    inner = getattr(message, field.name)
    if values is not None:
        return inner[1 if field.message_type.fields_by_name["key"].cpp_type != field.CPPTYPE_STRING else "k"]
    if field.is_repeated:
        return inner.add()
    inner.SetInParent()
    return inner


def say(message: Any, field: FieldDescriptor, values: FieldDescriptor | None) -> None:
    value = "x" if (values or field).cpp_type == field.CPPTYPE_STRING else 1
    if values is not None:
        getattr(message, field.name)["k"] = value
    elif field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, 0 if field.enum_type and len(field.enum_type.values) == 1 else value)


def refusals(folder: Path, config: ModelConfig) -> list[Problem]:
    """Return the problems of fields that are not honoured at all."""
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    return [problem for problem in examine(folder, "m")[1] if problem.text == "is not supported"]


def test_the_table_has_every_field_in_the_order_of_the_proto() -> None:
    fields = list(fields_of(ModelConfig.DESCRIPTOR))
    assert [path for path in fields if path in HONOURED] == list(table("Honoured"))
    assert [path for path in fields if path not in HONOURED] == list(table("Refused"))
    assert set(fields) >= HONOURED


@pytest.mark.parametrize("path", table("Honoured"))
def test_a_field_that_is_said_to_be_honoured_is_not_refused(tmp_path: Path, path: str) -> None:
    assert refusals(tmp_path, saying(path)) == []


@pytest.mark.parametrize(("path", "reason"), table("Refused").items())
def test_a_field_that_is_said_to_be_refused_is_with_the_same_reason(
    tmp_path: Path, path: str, reason: str
) -> None:
    (problem,) = refusals(tmp_path, saying(path))
    assert re.sub(r"\[[^\]]*\]", "", problem.field).startswith(path)
    assert problem.suggestion == reason


@pytest.mark.parametrize(("model", "text"), SNIPPETS.items())
def test_what_is_shown_can_be_read(tmp_path: Path, model: str, text: str) -> None:
    for version in (1, 2, 3):
        (tmp_path / str(version)).mkdir()
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "row").write_bytes(bytes(16))
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    (tmp_path / "config.pbtxt").write_text(text)
    assert read(tmp_path, model).lines
