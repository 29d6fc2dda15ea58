"""KServe's own client for gRPC, unchanged, in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # it is installed by `make clients`

ROWS = np.arange(32).reshape(2, 16)
SUMS = {"OUTPUT0": (2 * ROWS).tolist(), "OUTPUT1": (0 * ROWS).tolist()}


@pytest.fixture(scope="module")
def told(tell: Callable[[str], Any]) -> Any:
    return tell("kserve")


def test_states(told: Any) -> None:
    assert (told["live"], told["ready"]) == (True, True)
    assert told["models"] == [True, False, False]  # one that serves, one not loaded, one not there


def test_inferences(told: Any) -> None:
    assert told["raw"] == {"id": "7", "version": "1", "outputs": SUMS}
    assert told["typed"]["outputs"] == SUMS
    assert told["text"]["outputs"] == {"y": [["a", "", "€"]]}


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("not there", "NOT_FOUND", "did you mean 'simple'?"),
        ("bad input", "INVALID_ARGUMENT", "has no input 'x'"),
        ("late", "DEADLINE_EXCEEDED", ""),
    ],
)
def test_errors(told: Any, what: str, code: str, words: str) -> None:
    assert told[what][0] == code
    assert words in told[what][1]
