"""Values of a configuration's fields: read from words, and what to say of words that are wrong."""

from __future__ import annotations

import re
from typing import Final

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from headrace_server.models.model_config_problems import did_you_mean

_MEANT: Final = {
    "FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "FLOAT32": "TYPE_FP32", "FLOAT64": "TYPE_FP64",
    "DOUBLE": "TYPE_FP64", "HALF": "TYPE_FP16", "BFLOAT16": "TYPE_BF16", "BYTES": "TYPE_STRING",
    "INT": "TYPE_INT32", "LONG": "TYPE_INT64", "BYTE": "TYPE_UINT8",
    "CPU": "KIND_CPU", "GPU": "KIND_GPU", "AUTO": "KIND_AUTO",
}  # fmt: skip

_RANGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
"""The least and the most of whole numbers, by a field's type."""

_DECIMAL: Final = re.compile(r"-?[0-9]{1,100}")

_NOTHING: Final = "TYPE_INVALID"
"""The value that stands for a type that was not given."""


def number(described: FieldDescriptor, token: str) -> int | float | bool:
    """Return what a word says for a field that is no text. Raises ValueError if it cannot be its value."""
    if described.enum_type is not None:
        value: int = text_format.ParseEnum(described, token)
        if value not in described.enum_type.values_by_number:
            raise ValueError(token)
        return value
    match described.cpp_type:
        case FieldDescriptor.CPPTYPE_INT32:
            return text_format.ParseInteger(token, is_signed=True)
        case FieldDescriptor.CPPTYPE_INT64:
            return text_format.ParseInteger(token, is_signed=True, is_long=True)
        case FieldDescriptor.CPPTYPE_UINT32:
            return text_format.ParseInteger(token)
        case FieldDescriptor.CPPTYPE_UINT64:
            return text_format.ParseInteger(token, is_long=True)
        case FieldDescriptor.CPPTYPE_BOOL:
            return text_format.ParseBool(token)
        case _:
            return text_format.ParseFloat(token)


def expected(described: FieldDescriptor) -> str:
    """Return what a field takes, in words."""
    if described.enum_type is not None:
        return f"one of {', '.join(name for name in described.enum_type.values_by_name if name != _NOTHING)}"
    match described.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return "a text in quotes"
        case FieldDescriptor.CPPTYPE_BOOL:
            return "true or false"
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return "a number"
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return "a whole number from 0"
        case _:
            return "a whole number"


def refusal(described: FieldDescriptor, word: str) -> str:
    """Say what is wrong with a word that the field does not take."""
    lowest, highest = _RANGES.get(described.cpp_type, (0, 0))
    if highest and described.enum_type is None and _DECIMAL.fullmatch(word):
        value = int(word)
        if value > highest:
            return f"{word} is too large: {highest} is the most"
        if value < lowest < 0:
            return f"{word} is too small: {lowest} is the least"
    return f"{word} is not {expected(described)}"


def misnamed(name: str, described: Descriptor) -> str:
    """Return what was probably meant by a field that the message does not have; "" if nobody knows."""
    holders = [
        field.name
        for field in described.fields
        if field.message_type is not None and name in field.message_type.fields_by_name
    ]
    return (
        f"it stands in {' or '.join(holders[:2])}"
        if holders
        else did_you_mean(name, described.fields_by_name)
    )


def meant(described: FieldDescriptor, token: str) -> str:
    """Return what was probably meant by a word that the field does not take; "" if nobody knows."""
    if described.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return f'write "{token}"' if token.isidentifier() else ""
    if described.enum_type is None:
        return ""
    names = described.enum_type.values_by_name
    alias = _MEANT.get(token.strip("'\"").upper().removeprefix("TYPE_"))
    return f"did you mean {alias}?" if alias in names else did_you_mean(token, names)
