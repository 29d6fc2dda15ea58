"""One request that is one call, whose ends come in any order."""

from __future__ import annotations

from collections.abc import Callable

from direct_reactor import DirectReactor
from gated_server import rows
from scripted_engines import ROWS, Answers, Shelf

from headrace_server.core.model import Limits, Model
from headrace_server.core.request import NO_DEADLINE, Work
from headrace_server.core.service import Service
from headrace_server.transport.holdings import Holdings
from headrace_server.transport.inflation import Inflation
from headrace_server.transport.intake import Intake
from headrace_server.transport.open_calls import InferenceLimits, OpenCalls
from headrace_server.transport.regions import Regions
from headrace_server.transport.seam import Metadata, Peer
from headrace_server.transport.status import Status
from headrace_server.transport.unary import UnaryRequest


class Caller:
    """A call whose caller goes when the test says so, whatever is under way."""

    deadline = NO_DEADLINE
    metadata: Metadata = ()

    def __init__(self) -> None:
        self.on_end: Callable[[], None] | None = None

    def peer(self) -> Peer:
        return Peer("", {})

    def answer(self, message: bytes) -> None:
        raise AssertionError("nobody answers here")

    def fail(self, status: Status) -> None:
        raise AssertionError(status)

    def go(self) -> None:
        on_end, self.on_end = self.on_end, None
        assert on_end is not None
        on_end()


class Watched(Model):
    """Has something happen right after it has accepted work."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__("m", "1", ROWS, "scripted", Limits())
        self._then = then

    def submit(self, work: Work, *, hold: bool = False) -> None:
        super().submit(work, hold=hold)
        self._then()


def begin(call: Caller, model: Model) -> Holdings:
    holdings = Holdings(1 << 20)
    intake = Intake(
        Service(Shelf(model)),
        Answers(),
        DirectReactor(),
        holdings,
        Regions(allowed=False),
        Inflation(1 << 20),
    )
    open_calls = OpenCalls(InferenceLimits(10, 10, 10, 1 << 20))
    open_calls.enter()
    UnaryRequest(call, intake, holdings, open_calls).begin(rows(1).SerializeToString())
    return holdings


def test_a_caller_who_goes_once_the_request_waits_takes_it_along() -> None:
    call, model = Caller(), Watched(lambda: None)
    holdings = begin(call, model)
    assert model.waiting == 1
    call.go()
    assert (model.waiting, holdings.size_bytes) == (0, 0)


def test_a_caller_who_goes_while_the_request_is_submitted_takes_it_along() -> None:
    call = Caller()
    model = Watched(call.go)
    holdings = begin(call, model)
    assert (model.waiting, holdings.size_bytes) == (0, 0)
