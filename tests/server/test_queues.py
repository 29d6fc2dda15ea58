from __future__ import annotations

import pytest
from scripted_engines import ROWS, WITHOUT_BATCH, Answers
from works import work_of

from headrace_engines.spec import ModelSpec
from headrace_engines.steps import SequenceTurn
from headrace_server.core.model import Limits, Model
from headrace_server.core.queue import Queue, QueueFull
from headrace_server.core.queues import queue_for
from headrace_server.core.settings import ModelSettings, Sequences

PLAIN = ModelSettings()
SEQUENCED = ModelSettings(instances=2, sequences=Sequences())
MODEL = Model("m", "1", ROWS, "scripted", Limits())


def push(queue: Queue, number: int) -> None:
    turn = SequenceTurn(number, start=True, end=True)
    queue.push(work_of(MODEL, Answers(), f"{number}", sequence=turn))


@pytest.mark.parametrize("settings", [PLAIN, SEQUENCED])
def test_the_limits_are_kept_by_either_queue(settings: ModelSettings) -> None:
    for max_requests, max_bytes in ((2, 1000), (1000, 16)):
        queue = queue_for("m", ROWS, settings, max_requests, max_bytes)
        push(queue, 1)
        push(queue, 2)
        with pytest.raises(QueueFull):
            push(queue, 3)
        assert queue.requests == 2


@pytest.mark.parametrize(
    ("spec", "settings", "taken"),
    [(ROWS, PLAIN, 5), (WITHOUT_BATCH, PLAIN, 1), (ROWS, SEQUENCED, 3), (WITHOUT_BATCH, SEQUENCED, 1)],
    ids=["all", "one at a time", "those of one instance", "one of one instance"],
)
def test_what_an_instance_is_given(spec: ModelSpec, settings: ModelSettings, taken: int) -> None:
    queue = queue_for("m", spec, settings, 100, 1000)
    for number in range(1, 6):
        push(queue, number)
    assert len(queue.take(spec.max_batch_size or 1, 0.0, instance=0).batch) == taken
