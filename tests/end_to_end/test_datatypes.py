"""The tables of datatypes: each package that names them has its own, and they agree."""

from __future__ import annotations

from headrace_engines import manifest, python_model
from headrace_engines.runtime import onnx_session
from headrace_proto.tensors import DTYPES


def test_programs_name_the_datatypes_of_the_protocol() -> None:
    assert dict(python_model.DTYPES) == dict(DTYPES)


def test_manifests_can_say_every_datatype_of_the_protocol_and_no_other() -> None:
    assert set(manifest._DTYPES.values()) == set(DTYPES.values())


def test_onnx_runtime_has_every_datatype_of_the_protocol_and_no_other() -> None:
    assert set(onnx_session._DTYPES.values()) == set(DTYPES.values())
