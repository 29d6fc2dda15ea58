"""Levels of priority, and what each lets a request ask for."""

from __future__ import annotations

from typing import NamedTuple

from headrace_server.core.settings import ModelSettings, QueuePolicy, TimeoutAction


class Patience(NamedTuple):
    """How long a request may wait in the queue, in microseconds; 0 is as long as it takes."""

    timeout_us: int
    """After which it is answered with DeadlineMissed."""
    overdue_us: int
    """After which it is executed behind everything of its level that is not overdue."""


class Priorities:
    """The levels of one model: 1 is the most urgent; a model without levels has one, numbered 0."""

    def __init__(self, settings: ModelSettings) -> None:
        """Raises ValueError if the default level is none of the levels."""
        self._levels = settings.priority_levels
        self._default = settings.default_priority if self._levels else 0
        if self._levels and not 1 <= self._default <= self._levels:
            raise ValueError(
                f"default priority {self._default} came, a level from 1 to {self._levels} expected"
            )
        self._policies = settings.policies
        self._default_policy = settings.default_policy

    @property
    def default(self) -> int:
        """The level of a request that asks for none."""
        return self._default

    def level(self, asked: int) -> int:
        """Return the level for the parameter `priority`: the default one for 0 and for one that is none."""
        return asked if 1 <= asked <= self._levels else self._default

    def policy(self, level: int) -> QueuePolicy:
        """Return what the model's owner set for a level."""
        return self._policies.get(level, self._default_policy)

    def patience(self, level: int, asked_us: int) -> Patience:
        """Return how long a request may wait that asks for `asked_us` (0: for nothing).

        What it asks for counts where the level allows it, and only if it is shorter than the level's own.
        """
        policy = self.policy(level)
        wait_us = policy.default_timeout_us
        if asked_us and policy.allow_timeout_override and (not wait_us or asked_us < wait_us):
            wait_us = asked_us
        return Patience(wait_us, 0) if policy.timeout_action is TimeoutAction.REJECT else Patience(0, wait_us)
