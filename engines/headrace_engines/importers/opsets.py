"""The versions of operators that a model is written in, and changing them to what suits both runtimes."""

from __future__ import annotations

from typing import Final

import onnx
from google.protobuf.message import Error as MessageError
from onnx import helper, version_converter

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.importer import NEWEST_OPSET, OLDEST_OPSET

STANDARD: Final = ("", "ai.onnx")
"""What ONNX's own domain is called."""


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


def suited(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """Return the model in an opset that both runtimes know, at least this one, in its oldest format.

    One that cannot be raised stays as it is where that can be run and compressed. Raises
    UnsupportedModelError for an opset that is too old or too new and cannot be left.
    """
    if not opset(model):  # operators of other domains alone, as a forest's
        model.opset_import.append(helper.make_opsetid("", least))
    version = opset(model)
    if version > onnx.defs.onnx_opset_version():
        raise UnsupportedModelError(
            f"the model says that it is written in opset {version}, and the newest that is known here is "
            f"{onnx.defs.onnx_opset_version()}: export it with {OLDEST_OPSET} to {NEWEST_OPSET}"
        )
    wanted = max(least, min(version, NEWEST_OPSET))
    if version != wanted:
        try:
            model = version_converter.convert_version(model, wanted)
        except (RuntimeError, ValueError, MessageError) as error:
            if not OLDEST_OPSET <= version <= NEWEST_OPSET:
                reason = " ".join(str(error).rpartition("failed: ")[2].split())
                raise UnsupportedModelError(
                    f"the model is written in opset {version}, and cannot be converted to one of "
                    f"{OLDEST_OPSET} to {NEWEST_OPSET} ({reason}): export it with one of these"
                ) from error
    del model.graph.value_info[:]
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    return model
