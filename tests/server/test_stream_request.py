"""What a stream's request lets go of, whichever thread has what ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scripted_engines import ROWS, Answers
from works import work_of

from headrace_server.core.model import Limits, Model
from headrace_server.core.request import Work
from headrace_server.transport.holdings import Call, Holdings
from headrace_server.transport.stream_request import StreamRequest


class Abandoned:
    """Where requests go, which notes what is let go of."""

    def __init__(self) -> None:
        self.works: list[Work | None] = []

    def abandon(self, work: Work) -> None:
        self.works.append(work)


class Talk:
    """A stream; `meanwhile` happens as soon as a request looks where it came from."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.abandoned = Abandoned()
        self.holdings = Holdings(100)
        self.held = Call()
        self.answers: list[bytes | None] = []

    @property
    def intake(self) -> Any:
        self.meanwhile()
        return self.abandoned

    def settled(self) -> None: ...

    def answer(self, request: StreamRequest, message: bytes | None, held_bytes: int) -> None:
        self.answers.append(message)


@pytest.fixture
def work() -> Work:
    return work_of(Model("m", "1", ROWS, "scripted", Limits(), lambda: None), Answers(), "a")


def submitted(talk: Any, work: Work) -> StreamRequest:
    request = StreamRequest(talk, b"")
    request.accepted(work, 0)
    request.settled(None)
    return request


def test_work_that_was_submitted_is_let_go_of_with_the_stream(work: Work) -> None:
    talk = Talk()
    submitted(talk, work).give_up()
    assert talk.abandoned.works == [work]


def test_work_is_let_go_of_once_it_is_submitted(work: Work) -> None:
    talk = Talk()
    request = StreamRequest(talk, b"")  # type: ignore[arg-type]  # it says what is asked of it here
    request.accepted(work, 0)
    request.give_up()
    assert talk.abandoned.works == []
    request.settled(None)
    assert talk.abandoned.works == [work]


def test_an_answer_may_come_while_the_work_is_let_go_of(work: Work) -> None:
    talk = Talk()
    request = submitted(talk, work)
    talk.meanwhile = lambda: request.answered(work, b"")
    request.give_up()
    assert talk.abandoned.works == [work]
    assert talk.answers == [None]


def test_work_that_was_answered_is_not_let_go_of(work: Work) -> None:
    talk = Talk()
    request = submitted(talk, work)
    request.answered(work, b"")
    request.give_up()
    assert talk.abandoned.works == []
