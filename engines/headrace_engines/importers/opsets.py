"""The versions of operators that a model is written in, and raising them to those that are quantised best."""

from __future__ import annotations

from typing import Final

import onnx
from onnx import helper, version_converter

from headrace_engines.errors import UnsupportedModelError

STANDARD: Final = ("", "ai.onnx")
"""What ONNX's own domain is called."""
_LOWEST_TAKEN: Final = 13
"""Operators of older opsets have their axes in attributes, which neither quantisation nor TensorRT like."""


def opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model is written in; 0 if it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)


def merge(model: onnx.ModelProto) -> None:
    """Name each domain once: quantisation refuses a model that names one twice."""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain in STANDARD else entry.domain
        versions[domain] = max(entry.version, versions.get(domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    for node in model.graph.node:
        if node.domain in STANDARD:
            node.ClearField("domain")


def raised(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """Return the model in at least this opset, with the oldest IR version that has it.

    One that cannot be raised stays as it is where that can be run and compressed. Raises
    UnsupportedModelError for an opset that nothing here knows, or that is too old and cannot be raised.
    """
    version = opset(model)
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise UnsupportedModelError(
            f"the model is written in opset {version}, and {newest} is the newest that is known here: export "
            f"it with opset {least}, or install a newer onnx"
        )
    if version < least:
        try:
            model = version_converter.convert_version(model, least)
        except (RuntimeError, ValueError) as error:
            if version < _LOWEST_TAKEN:
                reason = " ".join(str(error).split())
                raise UnsupportedModelError(
                    f"the model is written in opset {version}, which cannot be raised to {least} ({reason}): "
                    f"export it with opset {least}"
                ) from error
    del model.graph.value_info[:]
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    return model
