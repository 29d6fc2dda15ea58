from __future__ import annotations

from pathlib import Path

import pytest

from headrace_engines.documents import Fields, dump
from headrace_engines.errors import ModelFileError


def _fields(folder: Path, **values: object) -> Fields:
    file = folder / "facts.json"
    file.write_bytes(dump({"format_version": 1, **values}))
    fields = Fields.load(file, 1)
    if fields is None:
        pytest.fail("the file was not found")
    return fields


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert Fields.load(tmp_path / "facts.json", 1) is None


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "nested too deeply$"),
        (b"[]", r"expected an object, got \[\]"),
        (b"{}", "field 'format_version' is missing"),
        (b'{"format_version": "1"}', "field 'format_version': expected a whole number, 0 or more, got \"1\""),
        (b'{"format_version": true}', "field 'format_version': expected a whole number"),
        (b'{"format_version": 2}', "format_version is 2; this version of Headrace reads 1"),
    ],
)
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, contents: bytes, complaint: str) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(contents)
    with pytest.raises(ModelFileError, match=complaint) as raised:
        Fields.load(file, 1)
    assert str(raised.value).startswith("facts.json: ")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "facts.json").mkdir()
    with pytest.raises(ModelFileError, match="not a regular file"):
        Fields.load(tmp_path / "facts.json", 1)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", "words"),
        ("flag", True),
        ("integer", 3),
        ("number", 0.5),
        ("integers", [1, -1]),
        ("scalars", {"a": "b", "c": 1, "d": True}),
        ("texts", {"a": "b"}),
        ("numbers", {"a": 1.5}),
    ],
)
def test_each_kind_takes_its_own_and_names_the_field_of_others(
    tmp_path: Path, kind: str, value: object
) -> None:
    taken = getattr(_fields(tmp_path, it=value), kind)("it")
    assert (list(taken) if isinstance(value, list) else taken) == value
    with pytest.raises(ModelFileError, match=r"field 'it': expected .*, got null"):
        getattr(_fields(tmp_path, it=None), kind)("it")
    with pytest.raises(ModelFileError, match="field 'it' is missing"):
        getattr(_fields(tmp_path), kind)("it")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", -1),
        ("integer", 1.0),
        ("number", True),
        ("integers", [1, True]),
        ("scalars", {"a": []}),
        ("texts", {"a": 1}),
        ("numbers", {"a": True}),
        ("record", []),
        ("records", {}),
        ("records", [1]),
    ],
)
def test_near_misses_are_refused(tmp_path: Path, kind: str, value: object) -> None:
    with pytest.raises(ModelFileError, match="field 'it': expected"):
        getattr(_fields(tmp_path, it=value), kind)("it")


def test_a_nested_field_is_named_by_its_path(tmp_path: Path) -> None:
    inner = _fields(tmp_path, outer={"items": [{}, {"size": "big"}]}).record("outer").records("items")[1]
    with pytest.raises(ModelFileError, match=r"field 'outer\.items\[1\]\.size': expected"):
        inner.integer("size")


def test_fields_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="unknown field 'colour', 'weight'"):
        _fields(tmp_path, weight=1, colour="red").end()
