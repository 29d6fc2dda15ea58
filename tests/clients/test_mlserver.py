"""MLServer's own codecs and stubs, unchanged, in an environment of their own."""

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
    return tell("mlserver")


def test_states_and_descriptions(told: Any) -> None:
    assert (told["live"], told["ready"], told["server"]) == (True, True, "headrace")
    assert told["inputs"] == ["INPUT0", "INPUT1"]
    assert told["simple"] == ["READY"]


def test_load_and_unload(told: Any) -> None:
    assert told["loaded"] == [True, False]


def test_inferences(told: Any) -> None:
    assert told["raw"] == {"id": "7", "version": "1", "outputs": SUMS}
    assert told["typed"]["outputs"] == SUMS
    assert told["text"]["outputs"] == {"y": ["a", "", "€"]}


def test_errors(told: Any) -> None:
    code, words = told["not there"]
    assert (code, "did you mean 'simple'?" in words) == ("NOT_FOUND", True)
    code, words = told["bad input"]
    assert (code, "has no input 'INPUT0'" in words) == ("INVALID_ARGUMENT", True)
