from __future__ import annotations

import pytest
from scripted_engines import ROWS, ScriptedEngine
from scripted_programs import ScriptedProgram

from headrace_engines.engine import Engine
from headrace_engines.errors import UnsupportedModelError
from headrace_engines.steps import StepEngine
from headrace_server.core.model import Limits, Model
from headrace_server.core.settings import ModelSettings, Sequences
from headrace_server.core.steps_worker import StepsWorker
from headrace_server.core.worker import Worker
from headrace_server.core.workers import worker_for

PLAIN = ModelSettings()
SEQUENCED = ModelSettings(sequences=Sequences())


@pytest.mark.parametrize(
    ("engine", "settings", "kind"),
    [
        (ScriptedEngine(), PLAIN, Worker),
        (ScriptedProgram(), PLAIN, StepsWorker),
        (ScriptedProgram(), SEQUENCED, StepsWorker),
    ],
)
def test_each_kind_of_engine_has_its_worker(
    engine: Engine | StepEngine, settings: ModelSettings, kind: type
) -> None:
    model = Model("m", "1", ROWS, "scripted", Limits(), settings=settings)
    assert type(worker_for(model, engine, 0)) is kind


def test_an_engine_that_keeps_nothing_cannot_have_sequences() -> None:
    model = Model("m", "1", ROWS, "scripted", Limits(), settings=SEQUENCED)
    with pytest.raises(UnsupportedModelError, match=r"need a program.*runs on scripted"):
        worker_for(model, ScriptedEngine(), 0)
