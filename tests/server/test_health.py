from __future__ import annotations

import pytest

from headrace_proto.names import SERVICES
from headrace_server.core.catalogue import Entry, ModelState
from headrace_server.transport.health import NOT_SERVING, SERVING, UNKNOWN, Health, states_of


@pytest.mark.parametrize(
    ("ready", "index", "expected"),
    [
        (True, [], {}),
        (
            True,
            [Entry("a", "1", ModelState.READY)],
            {"model:a": SERVING, "model:a:1": SERVING},
        ),
        (
            True,
            [Entry("a", "1", ModelState.UNAVAILABLE, "broken"), Entry("b", "2", ModelState.READY)],
            {"model:a": NOT_SERVING, "model:a:1": NOT_SERVING, "model:b": SERVING, "model:b:2": SERVING},
        ),
        (
            True,
            [Entry("a", "1", ModelState.READY), Entry("a", "2", ModelState.LOADING)],
            {"model:a": SERVING, "model:a:1": SERVING, "model:a:2": NOT_SERVING},
        ),
        (
            True,
            [Entry("a", "1", ModelState.UNLOADING), Entry("a", "2", ModelState.READY)],
            {"model:a": SERVING, "model:a:1": NOT_SERVING, "model:a:2": SERVING},
        ),
        (
            False,
            [Entry("a", "1", ModelState.READY)],
            {"model:a": NOT_SERVING, "model:a:1": NOT_SERVING},
        ),
    ],
)
def test_states(ready: bool, index: list[Entry], expected: dict[str, int]) -> None:
    server = dict.fromkeys(("", *SERVICES), SERVING if ready else NOT_SERVING)
    assert states_of(ready=ready, index=index) == server | expected


def test_listeners_hear_of_changes_alone_and_of_names_that_went() -> None:
    health = Health()
    heard: list[tuple[str, int]] = []

    def listen(name: str, state: int) -> None:
        heard.append((name, state))

    health.add_listener(listen)
    health.show({"": SERVING, "a": NOT_SERVING})
    assert heard == [("", SERVING), ("a", NOT_SERVING)]
    heard.clear()
    health.show({"": SERVING, "a": SERVING})
    assert heard == [("a", SERVING)]
    heard.clear()
    health.show({"": SERVING})
    assert heard == [("a", UNKNOWN)]
    heard.clear()
    health.show({"": SERVING})
    assert heard == [], "what has gone is forgotten"
    health.leave()
    assert heard == [("", NOT_SERVING)]
