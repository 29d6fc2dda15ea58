"""A model's configuration in JSON, as a caller sends it with RepositoryModelLoad.

Protobuf's JSON mapping stops at the first problem and at the first unknown name. So unknown names are
looked for here, and each field of the configuration is converted by itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from headrace_server.models.model_config_problems import Problem, note
from headrace_server.models.model_config_text import Document, in_map, map_values
from headrace_server.models.model_config_values import expected, meant, misnamed, refusal

JSON_SOURCE: Final = "config override"

_MOST_CHARACTERS: Final = 1 << 20
"""Reading so many takes seconds, which a caller who has gone does not end."""
_MOST_TOLD: Final = 10
"""Names of the same thing being wrong."""

_NEUTRAL: Final[Mapping[int, str | bool]] = {
    FieldDescriptor.CPPTYPE_STRING: "",
    FieldDescriptor.CPPTYPE_BOOL: False,
}
"""Values by a field's type that stand for one that was refused; the other types have 0."""


def read_json(text: str) -> Document:
    """Read the text; what is wrong with it is among the document's problems.

    Raises ConfigError where that is so much that the rest is not looked at.
    """
    document = Document(JSON_SOURCE)
    if len(text) > _MOST_CHARACTERS:
        text = f"{len(text)} characters came, at most {_MOST_CHARACTERS} are read"
        document.problems.append(Problem(JSON_SOURCE, 0, "", text))
        return document
    try:
        given = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
        json.dumps(given, ensure_ascii=False).encode()  # half a pair of surrogates is no text
    except (ValueError, RecursionError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"
        document.problems.append(Problem(JSON_SOURCE, 0, "", told))
        return document
    if not isinstance(given, dict):
        text = f"a JSON object is expected, {type(given).__name__} came"
        document.problems.append(Problem(JSON_SOURCE, 0, "", text))
        return document
    cleaned = _Cleaning(document).message(given, document.message.DESCRIPTOR, "")
    for name, value in cleaned.items():
        try:
            json_format.ParseDict({name: value}, document.message)
        except json_format.ParseError as error:
            note(document.problems, Problem(JSON_SOURCE, 0, name, _reason(error)))
    return document


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. Raises ValueError where a name stands twice, of which JSON would keep the last."""
    given = dict(pairs)
    if len(given) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)
        raise ValueError(f"given twice: {', '.join(twice[:_MOST_TOLD])}")
    return given


def _no_number(word: str) -> None:
    """Refuse what Python's reader takes beyond JSON. Raises ValueError."""
    raise ValueError(f"{word} is no number")


def _reason(error: json_format.ParseError) -> str:
    return " ".join(str(error).rstrip(".").split())


class _Cleaning:
    """Notes which fields are given, by the names of the .proto, and leaves out what cannot be converted."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def message(self, given: Mapping[str, Any], described: Descriptor, path: str) -> dict[str, Any]:
        """Return the fields that the message has."""
        names = {field.json_name: field for field in described.fields} | dict(described.fields_by_name)
        kept: dict[str, Any] = {}
        chosen: dict[str, str] = {}
        for name, value in given.items():
            field = names.get(name)
            if field is None:
                self._problem(path + name, "there is no such field", misnamed(name, described))
            elif value is None:
                continue
            elif field.name in kept:
                self._problem(path + field.name, "given twice", "keep one of them")
            elif field.containing_oneof and field.containing_oneof.name in chosen:
                other = chosen[field.containing_oneof.name]
                self._problem(path + field.name, f"{other} is given as well", "keep one of the two")
            else:
                if field.containing_oneof:
                    chosen[field.containing_oneof.name] = field.name
                self._document.lines[path + field.name] = 0
                kept[field.name] = self._value(value, field, path + field.name)
        return kept

    def _value(self, value: Any, field: FieldDescriptor, path: str) -> Any:
        values = map_values(field)
        if values is not None:
            if not isinstance(value, dict):
                return self._refused(path, value, "an object", {})
            return {
                key: self._element(item, values, in_map(path, _key(key, values)))
                for key, item in value.items()
            }
        if field.is_repeated:
            if not isinstance(value, list):
                return self._refused(path, value, "a list", [])
            return [self._element(item, field, f"{path}[{at}]") for at, item in enumerate(value)]
        return self._single(value, field, path)

    def _element(self, value: Any, field: FieldDescriptor, path: str) -> Any:
        self._document.lines[path] = 0
        return self._single(value, field, path)

    def _single(self, value: Any, field: FieldDescriptor, path: str) -> Any:
        """Return what is no list; of enums only what is a name or a number of one, for protobuf takes any."""
        if field.message_type is not None:
            if not isinstance(value, dict):
                return self._refused(path, value, "an object", {})
            return self.message(value, field.message_type, f"{path}.")
        if isinstance(value, dict | list) or not _is_of(field.enum_type, value):
            hint = meant(field, value) if isinstance(value, str) else ""
            return self._refused(path, value, expected(field), _NEUTRAL.get(field.cpp_type, 0), hint)
        if not _is_taken(field, value):
            word = value if isinstance(value, str) else json.dumps(value)
            self._problem(path, refusal(field, word), meant(field, word))
            return _NEUTRAL.get(field.cpp_type, 0)
        return value

    def _refused(self, path: str, value: Any, wanted: str, instead: Any, hint: str = "") -> Any:
        self._problem(path, f"{json.dumps(value, ensure_ascii=False)} is not {wanted}", hint)
        return instead

    def _problem(self, path: str, text: str, suggestion: str) -> None:
        note(self._document.problems, Problem(JSON_SOURCE, 0, path, text, suggestion))


def _is_of(known: EnumDescriptor | None, value: Any) -> bool:
    """Whether a value is a name or a number of the enum, if the field takes one."""
    if known is None:
        return True
    return value in (known.values_by_name if isinstance(value, str) else known.values_by_number)


def _is_taken(field: FieldDescriptor, value: Any) -> bool:
    """Whether protobuf's JSON mapping takes a value for a field, or for one of several in it."""
    holder = message_factory.GetMessageClass(cast(Descriptor, field.containing_type))()
    try:
        json_format.ParseDict({field.name: [value] if field.is_repeated else value}, holder)
    except json_format.ParseError:
        return False
    return True


def _key(text: str, values: FieldDescriptor) -> str | int:
    """Return a map's key, which JSON always has as a text."""
    entry = values.containing_type
    is_text = entry is None or entry.fields_by_name["key"].cpp_type == FieldDescriptor.CPPTYPE_STRING
    return int(text) if not is_text and len(text) <= 20 and text.isascii() and text.isdigit() else text
