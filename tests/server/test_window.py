from __future__ import annotations

import threading

import pytest

from headrace_server.core.window import Window

PATIENCE_SECONDS = 20.0


@pytest.mark.parametrize(
    ("sent", "size", "fits"),
    [
        pytest.param([], 1000, True, id="any size alone"),
        pytest.param([4], 6, True, id="exactly full"),
        pytest.param([4], 7, False, id="a byte too many"),
        pytest.param([1, 1, 1], 1, False, id="a response too many"),
    ],
)
def test_what_has_room(sent: list[int], size: int, fits: bool) -> None:
    window = Window(max_parts=3, max_bytes=10)
    assert all(window.admit(size_bytes, 0) for size_bytes in sent)
    assert window.admit(size, 0) is fits


def test_a_response_that_found_no_room_is_not_counted() -> None:
    window = Window(max_parts=1)
    window.admit(1, 0)
    assert not window.admit(1, 0)
    window.written(1)
    assert window.admit(1, 0)


@pytest.mark.parametrize("release", [lambda window: window.written(10), lambda window: window.open()])
def test_whoever_waits_goes_on_when_there_is_room(release: object) -> None:
    window = Window(max_bytes=10)
    window.admit(10, 0)
    came: list[bool] = []
    waiting = threading.Thread(target=lambda: came.append(window.admit(5, PATIENCE_SECONDS)))
    waiting.start()
    assert callable(release)
    release(window)
    waiting.join(PATIENCE_SECONDS)
    assert came == [True]


def test_an_open_window_lets_everything_through() -> None:
    window = Window(max_parts=1, max_bytes=1)
    window.open()
    assert all(window.admit(100, 0) for _ in range(10))
