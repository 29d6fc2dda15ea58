"""Protobuf's text format, read with the line of every field.

The parser of the protobuf package stops at the first problem, and tells afterwards neither where a field
stood nor whether a number that is 0 was given at all. So the messages are filled here, from that
package's tokens and values: a field that is unknown or has a wrong value is noted and passed over, and
the rest is read. Only a syntax error ends the reading.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, cast

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from headrace_proto.v1.model_config_pb2 import ModelConfig
from headrace_server.models.model_config_problems import Problem, note
from headrace_server.models.model_config_values import meant, misnamed, number, refusal

_BRACKETS: Final = {"{": "}", "<": ">"}
_FRONT: Final = re.compile(r"\d+(:\d+)? : ('.*': )?", re.DOTALL)
_QUOTES: Final = ("'", '"')


@dataclass(slots=True)
class Document:
    """What a configuration says. `lines` holds every field that was given, by its path.

    A path is `input[0].dims[1]`, or `parameters["key"]` in a map; its line counts from 1, 0 where the
    format has none.
    """

    file: str
    message: ModelConfig = field(default_factory=ModelConfig)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def map_values(described: FieldDescriptor) -> FieldDescriptor | None:
    """Return what describes the values of a map; None for a field that is no map."""
    inner = described.message_type
    return inner.fields_by_name["value"] if inner is not None and inner.GetOptions().map_entry else None


def in_map(path: str, key: str | int) -> str:
    """Return the path of a map's entry."""
    return f"{path}[{json.dumps(key)}]"


def read_text(text: str, file: str) -> Document:
    """Read the text; what is wrong with it is among the document's problems.

    Raises ConfigError where that is so much that the rest is not looked at.
    """
    document = Document(file)
    try:
        _Reader(text, document).read()
    except text_format.ParseError as error:
        hint = "this is JSON: write fields without braces and commas around them" if _is_json(text) else ""
        document.problems.append(Problem(file, error.GetLine() or 0, "", _syntax(error), hint))
    return document


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("{")


def _syntax(error: text_format.ParseError) -> str:
    """Return what the tokenizer says, without the line's number and its text, which it puts in front."""
    return f"not protobuf's text format: {_FRONT.sub('', str(error)).rstrip('.')}"


class _Reader:
    """Fills a document from a text."""

    def __init__(self, text: str, document: Document) -> None:
        self._tokens = text_format.Tokenizer(text.split("\n"))
        self._document = document
        self._lines = document.lines

    def read(self) -> None:
        """Read to the end. Raises ParseError at what is no text format."""
        self._fields(self._document.message, "", "")

    def _fields(self, message: Message, path: str, end: str) -> None:
        seen: dict[str, int] = {}
        while not (self._tokens.TryConsume(end) if end else self._tokens.AtEnd()):
            if self._tokens.AtEnd():
                raise self._error(f"the text ends where {end!r} is expected")
            self._field(message, path, seen)
            if not self._tokens.TryConsume(","):
                self._tokens.TryConsume(";")

    def _field(self, message: Message, path: str, seen: dict[str, int]) -> None:
        line = self._line()
        name = self._tokens.ConsumeIdentifierOrNumber()
        known = cast(Descriptor, message.DESCRIPTOR)  # which another class implements
        described = known.fields_by_name.get(name)
        if described is None:
            self._problem(line, path + name, "there is no such field", misnamed(name, known))
            self._skip()
            return
        is_message = described.message_type is not None
        if not self._tokens.TryConsume(":") and not is_message:
            raise self._error(f"':' is expected after {name}")
        if described.is_repeated:
            self._repeated(message, described, path + name, line)
        elif name in seen:
            self._problem(line, path + name, f"given twice, first in line {seen[name]}", "keep one of them")
            self._skip()
        elif not self._displaces(message, described, path + name, line):
            seen[name] = line
            self._lines[path + name] = line
            self._value(message, described, path + name, line)

    def _displaces(self, message: Message, described: FieldDescriptor, path: str, line: int) -> bool:
        """Refuse a field whose place is taken by another one of the same choice."""
        taken = described.containing_oneof and message.WhichOneof(described.containing_oneof.name)
        if not taken:
            return False
        self._problem(line, path, f"{taken} is given as well", "keep one of the two")
        self._skip()
        return True

    def _repeated(self, message: Message, described: FieldDescriptor, path: str, line: int) -> None:
        self._lines.setdefault(path, line)
        if not self._tokens.TryConsume("["):
            self._element(message, described, path, line)
            return
        if self._tokens.TryConsume("]"):
            return
        while True:
            self._element(message, described, path, self._line())
            if self._tokens.TryConsume("]"):
                return
            self._tokens.Consume(",")

    def _element(self, message: Message, described: FieldDescriptor, path: str, line: int) -> None:
        values = map_values(described)
        if values is not None:
            self._entry(getattr(message, described.name), values, path, line)
            return
        place = f"{path}[{len(getattr(message, described.name))}]"
        self._lines[place] = line
        self._value(message, described, place, line)

    def _entry(self, entries: Any, values: FieldDescriptor, path: str, line: int) -> None:
        """Read an entry of a map; its path is known when its key is."""
        entry = entries.GetEntryClass()()
        outer, self._lines = self._lines, {}
        try:
            self._fields(entry, "", self._opened())
        finally:
            inner, self._lines = self._lines, outer
        if "key" not in inner:
            self._problem(line, path, "an entry has no key", 'write { key: "…" value: … }')
            return
        key = entry.key
        place = in_map(path, key)
        if place in outer:
            self._problem(line, place, f"given twice, first in line {outer[place]}", "keep one of them")
            return
        outer |= {place + name.removeprefix("value"): at for name, at in inner.items() if name != "key"}
        outer[place] = line
        if values.message_type is None:
            entries[key] = entry.value
        else:
            entries[key].CopyFrom(entry.value)

    def _value(self, message: Message, described: FieldDescriptor, path: str, line: int) -> None:
        if described.message_type is None:
            self._scalar(message, described, path, line)
            return
        end = self._opened()
        if described.is_repeated:
            inner = getattr(message, described.name).add()
        else:
            inner = getattr(message, described.name)
            inner.SetInParent()
        self._fields(inner, f"{path}.", end)

    def _opened(self) -> str:
        """Consume a message's opening bracket, and return the one that closes it."""
        opening = self._tokens.token
        if opening not in _BRACKETS:
            raise self._error("'{' is expected")
        self._tokens.Consume(opening)
        return _BRACKETS[opening]

    def _scalar(self, message: Message, described: FieldDescriptor, path: str, line: int) -> None:
        token = self._tokens.token
        if not token or token in "{}<>[],;:":
            raise self._error(f"a value is expected for {described.name}")
        is_text = described.cpp_type == FieldDescriptor.CPPTYPE_STRING
        try:
            value = self._text(token) if is_text else self._consumed(described, token)
        except ValueError:
            self._problem(line, path, refusal(described, token), meant(described, token))
            value = described.default_value if not described.is_repeated else 0
        if described.is_repeated:
            getattr(message, described.name).append(value)
        else:
            setattr(message, described.name, value)

    def _text(self, token: str) -> str:
        if token.startswith(_QUOTES):
            return self._tokens.ConsumeString()
        self._tokens.NextToken()
        raise ValueError(token)

    def _consumed(self, described: FieldDescriptor, token: str) -> int | float | bool:
        self._skip_value()
        return number(described, token)

    def _skip(self) -> None:
        """Pass over the value of a field, whatever it is."""
        self._tokens.TryConsume(":")
        depth = 0
        while not self._tokens.AtEnd():
            token = self._tokens.token
            if depth == 0 and token not in ("{", "<", "["):
                self._skip_value()
                return
            self._tokens.NextToken()
            depth += 1 if token in ("{", "<", "[") else -1 if token in ("}", ">", "]") else 0
            if depth == 0:
                return

    def _skip_value(self) -> None:
        """Pass over a word, a number, or strings that belong together."""
        is_text = self._tokens.token.startswith(_QUOTES)
        self._tokens.NextToken()
        while is_text and self._tokens.token.startswith(_QUOTES):
            self._tokens.NextToken()

    def _line(self) -> int:
        """Return the line of the token that comes next."""
        return self._error("").GetLine() or 0

    def _error(self, text: str) -> text_format.ParseError:
        return self._tokens.ParseError(text)  # type: ignore[arg-type]  # it is the stub that is wrong

    def _problem(self, line: int, path: str, text: str, suggestion: str) -> None:
        note(self._document.problems, Problem(self._document.file, line, path, text, suggestion))
