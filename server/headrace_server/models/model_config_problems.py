"""What is wrong with a model's configuration: every finding names the place, what came and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from headrace_engines.near import near

CONFIG_FILE: Final = "config.pbtxt"

_MOST_PROBLEMS: Final = 100
"""Nobody reads more, and each is looked into for what was meant."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `line` counts from 1; 0 where the source has no lines, as JSON of a request.

    `file` is the name without its folder, because the text reaches clients, who need not know where a
    server keeps its models.
    """

    file: str
    line: int
    field: str
    text: str
    suggestion: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        field = f": {self.field}" if self.field else ""
        suggestion = f"; {self.suggestion}" if self.suggestion else ""
        return f"{place}{field}: {self.text}{suggestion}"


class ConfigError(Exception):
    """A configuration cannot be honoured; `problems` holds what was found in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("; ".join(map(str, self.problems)))


def note(problems: list[Problem], problem: Problem) -> None:
    """Add a problem to those that were found. Raises ConfigError when nothing further is looked for."""
    problems.append(problem)
    if len(problems) >= _MOST_PROBLEMS:
        text = f"after {_MOST_PROBLEMS} problems the rest was not looked at"
        raise ConfigError([*problems, Problem(problem.file, problem.line, "", text)])


class Findings:
    """Collects the problems of one configuration, and knows at which line each of its fields was given."""

    def __init__(self, file: str, lines: Mapping[str, int], problems: Iterable[Problem] = ()) -> None:
        self._file = file
        self._lines = lines
        self._problems = list(problems)
        self._unread = frozenset(problem.field for problem in self._problems if problem.field)

    def __contains__(self, field: str) -> bool:
        """Whether the field was given, be it with its default value."""
        return field in self._lines

    def report(self, field: str, text: str, suggestion: str = "") -> None:
        """Note a problem at the line of the field, or of what encloses it if that field was not given.

        Of a field that could not be read nothing more is noted: what stands for it was not given.
        """
        if field in self._unread:
            return
        note(self._problems, Problem(self._file, self._line(field), field, text, suggestion))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was reported until now."""
        return tuple(self._problems)

    def check_name(self, field: str, name: str, taken: Mapping[str, str]) -> None:
        """Report a name that is missing, or is among those that are taken, each by what it says of it."""
        if not name:
            self.report(field, "a name is expected")
        elif name in taken:
            self.report(field, f"{name!r} is {taken[name]}")

    def end(self) -> None:
        """Raise ConfigError if anything was reported."""
        if self._problems:
            raise ConfigError(self._problems)

    def _line(self, field: str) -> int:
        while field and field not in self._lines:
            field = field[: max(field.rfind("."), field.rfind("["), 0)]
        return self._lines.get(field, 0)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question naming what was probably meant, "" if nothing is near."""
    meant = near(name, known, 2)
    return f"did you mean {' or '.join(meant)}?" if meant else ""
