"""Builds on this machine the plan of a case whose own does not load here."""

from __future__ import annotations

import dataclasses

from bench.gpu_check.cases import PLAN_SUFFIX, SIZES, Case, described, find
from bench.gpu_check.setting import Setting
from headrace_engines import manifest
from headrace_engines.candidates import MODEL
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.planned import plans
from headrace_engines.progress import Stages


def build(case: Case, setting: Setting) -> Case:
    """Return the case with a plan that was built here; `find` finds it from now on.

    Raises UnsupportedModelError in the library's words.
    """
    folder = setting.built / case.network.name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    for file in {MODEL, case.onnx.file}:
        if not (folder / file).exists():
            (folder / file).symlink_to((case.folder / file).resolve())
    stages = Stages(lambda step, fraction: None)
    planned = plans(folder, [case.onnx], SIZES, caches=setting.caches, stages=stages, fraction=1.0)
    if planned.warning or not planned.artefacts[0].passed:
        raise UnsupportedModelError(planned.warning or planned.artefacts[0].reason)
    known = described(folder).artefacts if (folder / manifest.FILE_NAME).exists() else ()
    before = [one for one in known if one.recipe != case.recipe or not one.file.endswith(PLAN_SUFFIX)]
    originals = tuple(one for one in described(case.folder).artefacts if one.file in (MODEL, case.onnx.file))
    artefacts = dict.fromkeys((*before, *originals, *planned.artefacts))
    whole = dataclasses.replace(described(case.folder), artefacts=tuple(artefacts))
    (folder / manifest.FILE_NAME).write_bytes(whole.to_bytes())
    return find(setting, case.name)
