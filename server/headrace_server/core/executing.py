"""What an instance of a model has in hand, for whoever looks while it executes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from headrace_server.core.request import Work


class Executing(NamedTuple):
    """An execution that goes on."""

    instance: int
    since_ns: int
    """When it began or, if that was later, the instance gave its last answer; on the monotonic clock."""
    requests: int
    """How many have no final answer."""
    gpu: int | None = None
    """The index of the GPU that executes, if one does."""
    is_renewal: bool = False
    """Whether the engine is made anew meanwhile, and executes nothing."""


Look = Callable[[], Executing | None]
"""Tells what one instance executes, None while it waits. Any thread may call it."""


class Instance(Protocol):
    """One of a model's engines with its thread. Any thread may ask it."""

    @property
    def gpu(self) -> int | None:
        """The index of its GPU, if it has one."""

    def look(self) -> Executing | None:
        """Return what it executes, None while it waits."""

    def give_up(self) -> list[Work]:
        """Let go of what was taken and has no answer, for the caller to answer, and wait for it no more.

        Only of an instance on a GPU, whose thread may be stuck in the driver.
        """


class Instances:
    """The instances of a model that execute, by their numbers. Any thread may call it."""

    def __init__(self) -> None:
        self._by_number: dict[int, Instance] = {}

    def attach(self, number: int, instance: Instance) -> None:
        """Let it be seen what an instance executes, until `detach`."""
        self._by_number[number] = instance

    def detach(self, number: int) -> None:
        """Forget an instance that executes nothing more."""
        del self._by_number[number]

    def executing(self) -> list[Executing]:
        """Return what they execute at this moment."""
        return [one for instance in tuple(self._by_number.values()) if (one := instance.look()) is not None]

    def on(self, gpu: int) -> list[Instance]:
        """Return those on this GPU."""
        return [instance for instance in tuple(self._by_number.values()) if instance.gpu == gpu]
