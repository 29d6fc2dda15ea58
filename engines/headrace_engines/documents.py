"""Reads JSON documents strictly: every complaint names the file and the field.

What a manifest says decides which file is executed, so a field that is missing, misspelt or of
another type is refused and never guessed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, Self, cast

from headrace_engines import files
from headrace_engines.errors import ModelFileError

Scalar = str | int | float | bool
"""A value that stands in a document as it is."""


class Fields:
    """One JSON object, each field of which is taken once by name and type.

    `where` is the object's path from the document's root, such as `artefacts[1]`.
    """

    def __init__(self, file: str, where: str, values: Mapping[str, object]) -> None:
        self._file = file
        self._where = where
        self._values = dict(values)

    @classmethod
    def load(cls, file: Path, format_version: int) -> Self | None:
        """Read a document whose `format_version` must be the given one; None if there is no such file."""
        if not os.path.lexists(file):
            return None
        files.check(file)
        try:
            document = json.loads(file.read_bytes())
        except OSError as error:
            raise files.unreadable(file, error) from error
        except RecursionError as error:
            raise ModelFileError(f"{file.name}: nested too deeply") from error
        except ValueError as error:
            raise ModelFileError(f"{file.name}: not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ModelFileError(f"{file.name}: expected an object, got {_kind(document)}")
        fields = cls(file.name, "", document)
        found = fields.integer("format_version")
        if found != format_version:
            raise ModelFileError(
                f"{file.name}: format_version is {found}; this version of Headrace reads {format_version}"
            )
        return fields

    def text(self, name: str) -> str:
        """Take a string."""
        value = self._take(name)
        if not isinstance(value, str):
            self._refuse(name, value, "a string")
        return value

    def flag(self, name: str) -> bool:
        """Take true or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            self._refuse(name, value, "true or false")
        return value

    def integer(self, name: str, at_least: int = 0) -> int:
        """Take a whole number that is not below `at_least`."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            self._refuse(name, value, f"a whole number, {at_least} or more")
        return value

    def number(self, name: str) -> float:
        """Take a number."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(name, value, "a number")
        return float(value)

    def positive(self, name: str) -> float:
        """Take a number above 0."""
        value = self.number(name)
        if not 0 < value < math.inf:
            self._refuse(name, value, "a number above 0")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """Take a list of whole numbers."""
        value = self._take(name)
        if not isinstance(value, list) or any(type(item) is not int for item in value):
            self._refuse(name, value, "a list of whole numbers")
        return tuple(value)

    def scalars(self, name: str) -> dict[str, Scalar]:
        """Take an object whose values are strings, numbers, true or false, under names of its own."""
        value = self._take(name)
        if not isinstance(value, dict) or any(not isinstance(v, str | int | float) for v in value.values()):
            self._refuse(name, value, "an object of strings, numbers, true or false")
        return value

    def numbers(self, name: str) -> dict[str, float]:
        """Take an object whose values are numbers, under names of its own."""
        value = self._take(name)
        if not isinstance(value, dict) or any(type(item) not in (int, float) for item in value.values()):
            self._refuse(name, value, "an object of numbers")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """Take an object whose values are strings, under names of its own."""
        value = self._take(name)
        if not isinstance(value, dict) or any(not isinstance(v, str) for v in value.values()):
            self._refuse(name, value, "an object of strings")
        return value

    def record(self, name: str) -> Fields:
        """Take an object with fields of its own."""
        value = self._take(name)
        if not isinstance(value, dict):
            self._refuse(name, value, "an object")
        return Fields(self._file, self._path(name), value)

    def record_or_none(self, name: str) -> Fields | None:
        """Take an object with fields of its own, or null for none."""
        if self._values.get(name, self) is None:
            del self._values[name]
            return None
        return self.record(name)

    def strings(self, name: str) -> tuple[str, ...]:
        """Take a list of strings."""
        value = self._take(name)
        if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
            self._refuse(name, value, "a list of strings")
        return tuple(value)

    def records(self, name: str) -> tuple[Fields, ...]:
        """Take a list of objects with fields of their own."""
        value = self._take(name)
        if not isinstance(value, list) or any(not isinstance(item, dict) for item in value):
            self._refuse(name, value, "a list of objects")
        items = cast("list[dict[str, object]]", value)
        return tuple(
            Fields(self._file, f"{self._path(name)}[{index}]", item) for index, item in enumerate(items)
        )

    def end(self) -> None:
        """Refuse what nobody took: a field that this version does not know."""
        if self._values:
            names = ", ".join(repr(self._path(name)) for name in sorted(self._values))
            raise ModelFileError(f"{self._file}: unknown field {names}")

    def wrong(self, name: str, got: str, expected: str) -> ModelFileError:
        """Return the complaint about a field's value, to be raised."""
        return ModelFileError(f"{self._file}: field {self._path(name)!r}: expected {expected}, got {got}")

    def _take(self, name: str) -> object:
        if name not in self._values:
            raise ModelFileError(f"{self._file}: field {self._path(name)!r} is missing")
        return self._values.pop(name)

    def _refuse(self, name: str, value: object, expected: str) -> NoReturn:
        raise self.wrong(name, _kind(value), expected)

    def _path(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name


def dump(document: Mapping[str, object]) -> bytes:
    """Write a document so that equal contents are equal bytes, and a person can read them."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _kind(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
