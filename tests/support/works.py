"""Work as the service makes it of a request, without a request."""

from __future__ import annotations

from typing import Any

from headrace_engines.steps import SequenceTurn
from headrace_server.core.request import NO_DEADLINE, Admitted, Holder, Request, Shapes, Sink, Terms, Work


def work_of(
    model: Holder,
    sink: Sink,
    name: str = "",
    *,
    rows: int = 1,
    size_bytes: int = 8,
    shapes: Shapes = None,
    wanted: tuple[int, ...] = (0,),
    deadline: float = NO_DEADLINE,
    queued_ns: int = 0,
    priority: int = 0,
    overdue_us: int = 0,
    sequence: SequenceTurn | None = None,
    reply: Any = None,
) -> Work:
    """Return work whose id is `name`, with one input of so many bytes."""
    terms = Terms(priority, 0, overdue_us, sequence)
    admitted = Admitted(rows, (bytes(size_bytes),), shapes, size_bytes, wanted, terms)
    return Work(model, Request("", "", name, ()), admitted, deadline, sink, reply, queued_ns)
