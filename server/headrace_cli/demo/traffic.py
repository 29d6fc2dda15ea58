"""The demo's requests: held-out rows, again and again, each answer counted and compared."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from headrace import Client

Request = tuple[int, dict[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows for a classifier: the array `name`, and the class of each of its rows."""

    name: str
    inputs: NDArray[Any]
    labels: NDArray[np.int64]

    def request(self, row: int) -> dict[str, NDArray[Any]]:
        """Return one row as the inputs of a request."""
        return {self.name: self.inputs[row : row + 1]}


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of a stream: how often each request was answered, and each failure's text."""

    sent: int
    answers: Counter[int]
    right: int
    failures: tuple[str, ...]
    seconds: float
    latencies_seconds: NDArray[np.float64]

    @property
    def each_once(self) -> bool:
        """Whether every request got exactly one outcome, and that an answer."""
        return not self.failures and self.answers == Counter(range(self.sent))

    @property
    def accuracy(self) -> float:
        """The share of requests whose answer names the right class."""
        return self.right / self.sent

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.sent / self.seconds


def stream(client: Client, model: str, rows: Rows, rounds: int, max_in_flight: int) -> Streamed:
    """Stream every row `rounds` times, one request a row."""
    count = len(rows.inputs)
    sent_at: dict[int, float] = {}

    def requests() -> Iterator[Request]:
        for number in range(rounds * count):
            sent_at[number] = time.perf_counter()
            yield number, rows.request(number % count)

    answers: Counter[int] = Counter()
    failures: list[str] = []
    latencies: list[float] = []
    right = 0
    began = time.perf_counter()
    for number, outcome in client.stream(requests(), model=model, max_in_flight=max_in_flight):
        latencies.append(time.perf_counter() - sent_at[number])
        answers[number] += 1
        if isinstance(outcome, dict):
            right += names_class(outcome, rows.labels[number % count])
        else:
            failures.append(str(outcome))
    seconds = time.perf_counter() - began
    return Streamed(rounds * count, answers, right, tuple(failures), seconds, np.array(latencies))


def alone(client: Client, model: str, rows: Rows, calls: int) -> NDArray[np.float64]:
    """Return the seconds that each of some calls takes, one after the other."""
    latencies = np.empty(calls)
    for number in range(calls):
        began = time.perf_counter()
        client.infer(model, rows.request(number % len(rows.inputs)))
        latencies[number] = time.perf_counter() - began
    return latencies


def names_class(outputs: dict[str, NDArray[Any]], label: int) -> bool:
    """Whether the largest of the only output's scores is the label's."""
    (scores,) = outputs.values()
    return bool(scores.argmax() == label)
