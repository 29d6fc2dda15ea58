"""Which answers are right: what a model may answer is known at each moment, and an answer tells its source.

Every file that is ever served has a number of its own, its serial, and adds `serial * SPACING` to its rows. A
row holds a key below `SPACING`, so that an answer names the file that computed it, and the question that it
belongs to. While a change goes on, what was before and what is to be are both right; before it and after it,
one of them alone is.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

SPACING: Final = 1000
"""Keys lie below it, which leaves room for 16,000 serials among the whole numbers of FP32."""
UNLOADED: Final = -1
"""Stands among the serials: the model is known, and was unloaded on purpose."""
REMOVED: Final = -2
"""Stands among the serials: the model's folder was taken away."""

_CODES: Final[Mapping[int, frozenset[str]]] = {
    UNLOADED: frozenset({"UNAVAILABLE"}),
    REMOVED: frozenset({"UNAVAILABLE", "NOT_FOUND"}),
}
"""The documented codes of calls to what is not there."""
_NOT_READY: Final = "MODEL_NOT_READY"
_MOST_COMPLAINTS: Final = 10
_PATIENCE_SECONDS: Final = 30.0

Answers: TypeAlias = Mapping[str, frozenset[int]]
"""The serials that may answer, by the version that is asked for, "" for none."""


class Outcome(enum.Enum):
    """What became of a call."""

    GOOD = "good"
    REFUSED = "refused"
    """With the documented code, while its model was away on purpose."""
    LOST = "lost"
    """Ended in any other way."""
    WRONG = "wrong"
    """Answered with rows that are not its own, or not those of the version that the answer names, or with
    those of a file that was replaced before the call began."""


@dataclass(frozen=True, slots=True)
class Question:
    """One call. `since` is how much of its model's history had passed when it began."""

    model: str
    version: str
    key: int
    since: int


class Ledger:
    """What was asked, what was answered, and what is right. Used by one event loop alone."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.complaints: list[str] = []
        """Of the first calls that were lost or wrong."""
        self._keys = itertools.cycle(range(SPACING))
        self._files: dict[int, tuple[str, str]] = {}
        self._history: dict[str, list[Answers]] = defaultdict(list)
        self._seen: dict[int, asyncio.Future[float]] = {}

    def register(self, model: str, version: int) -> int:
        """Return the serial of a file that is to be served as this version."""
        serial = len(self._files) + 1
        self._files[serial] = (model, str(version))
        self._seen[serial] = asyncio.get_running_loop().create_future()
        return serial

    def settle(self, model: str, right: Answers) -> None:
        """Say what alone is right from now on."""
        self._history[model].append(right)

    @contextmanager
    def changing(self, model: str, right: Answers) -> Iterator[None]:
        """Let what is to be right be right beside what is, and alone once the block is left."""
        before = self._history[model][-1]
        none: frozenset[int] = frozenset()
        both = {asked: before.get(asked, none) | right.get(asked, none) for asked in {*before, *right}}
        self.settle(model, both)
        yield
        self.settle(model, right)

    async def seen(self, serial: int) -> float:
        """Return when this file first answered, by `time.perf_counter`. Raises TimeoutError."""
        return await asyncio.wait_for(asyncio.shield(self._seen[serial]), _PATIENCE_SECONDS)

    def ask(self, model: str, version: str) -> Question:
        """Note a call that begins."""
        return Question(model, version, next(self._keys), len(self._history[model]) - 1)

    def answered(self, question: Question, model: str, version: str, elements: Sequence[float]) -> None:
        """Judge an answer: the model and version that it names, and its row."""
        serial, key = divmod(int(elements[0]), SPACING) if elements else (0, -1)
        if (
            len({*elements}) == 1
            and key == question.key
            and self._files.get(serial) == (model, version)
            and serial in self._right(question)
        ):
            self.outcomes[Outcome.GOOD] += 1
        else:
            self._complain(Outcome.WRONG, question, f"{model} {version} answered {list(elements)}")
        if serial in self._seen and not self._seen[serial].done():
            self._seen[serial].set_result(time.perf_counter())

    def failed(self, question: Question, code: str, reason: str, text: str) -> None:
        """Judge an error by its code, and the reason in its details."""
        excuses = [_CODES[why] for why in self._right(question) if why in _CODES]
        is_explained = code != "UNAVAILABLE" or reason == _NOT_READY
        if is_explained and any(code in codes for codes in excuses):
            self.outcomes[Outcome.REFUSED] += 1
        else:
            self._complain(Outcome.LOST, question, f"{code} {reason}: {text}")

    def _right(self, question: Question) -> frozenset[int]:
        """Return every serial that was right at some time since the call began."""
        states = self._history[question.model][question.since :]
        return frozenset().union(*(state.get(question.version, frozenset()) for state in states))

    def _complain(self, outcome: Outcome, question: Question, text: str) -> None:
        self.outcomes[outcome] += 1
        if len(self.complaints) < _MOST_COMPLAINTS:
            right = sorted(self._right(question))
            self.complaints.append(f"{outcome.value}: {question}: {text}; right were the files {right}")
