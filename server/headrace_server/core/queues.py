"""Which queue a model has."""

from __future__ import annotations

from headrace_engines.spec import ModelSpec
from headrace_server.core.queue import Queue
from headrace_server.core.request_queue import RequestQueue
from headrace_server.core.sequence_controls import SequenceControls
from headrace_server.core.sequences import SequenceQueue
from headrace_server.core.settings import ModelSettings


def queue_for(
    model: str, spec: ModelSpec, settings: ModelSettings, max_requests: int, max_bytes: int
) -> Queue:
    """Return the queue for a model of this name: that of sequences, if it has any."""
    if settings.sequences is None:
        return RequestQueue(max_requests, max_bytes, settings, spec.batch_sizes)
    return SequenceQueue(
        model,
        settings.sequences,
        SequenceControls(settings.sequences, has_batch_axis=spec.has_batch_axis),
        instances=settings.instances,
        slots=spec.max_batch_size or 1,
        max_requests=max_requests,
        max_bytes=max_bytes,
    )
