"""An engine on a device that a test scripts: it fails, is spoilt, made anew, hangs, and tells its times."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scripted_engines import ROWS, Arrays, ScriptedEngine

from headrace_engines.device_rows import Placed
from headrace_engines.engine import DeviceTimes
from headrace_engines.errors import EngineSpoilt
from headrace_engines.spec import ModelSpec

SPOILT = "CUDA_ERROR_ILLEGAL_ADDRESS"
_SPOILING = threading.Lock()
"""All that are beside each other are spoilt at once."""
_CALLS = ("inputs", "submit", "wait", "run", "renew")


class ScriptedDevice(ScriptedEngine):
    """Answers as a scripted engine does, from slots, and is its own device side.

    What stands in `script` is raised by the next call of that name. A batch that holds an element of
    `poison` spoils the engine once it was submitted, and whatever is called next hears of it first; then
    everything says that it is spoilt, until it is renewed, and those `beside` it are spoilt with it. `before`
    sees each execution.
    """

    def __init__(
        self,
        spec: ModelSpec = ROWS,
        *,
        slots: int = 2,
        gpu: int = 0,
        poison: Collection[int] = (),
        before: Callable[[Arrays], None] = lambda _: None,
        device_times: DeviceTimes | None = None,
    ) -> None:
        super().__init__(spec, slots=slots, before=before)
        self.device = self
        self.gpu = gpu
        self.poison = poison
        self.script: dict[str, deque[Exception]] = {name: deque() for name in _CALLS}
        self.renewals = 0
        self.beside: Sequence[ScriptedDevice] = ()
        self.submitted: list[list[int]] = []
        """The elements of each batch that was handed over."""
        self._poisoned: int | None = None
        """The slot whose batch spoils the engine; -1 for arrays of their own."""
        self._is_spoilt = False
        self._times = device_times
        self._anew()

    def spoil(self) -> None:
        """Be spoilt by another engine on the same device."""
        self._is_spoilt = True

    def times(self, slot: int) -> DeviceTimes | None:
        return self._times

    def renew(self) -> None:
        self._raise("renew")
        self.renewals += 1
        self._poisoned, self._is_spoilt = None, False
        self._pending.clear()
        self._anew()

    def inputs(self, slot: int) -> Arrays:
        self._check("inputs")
        return super().inputs(slot)

    def submit(self, slot: int, rows: int, placed: Sequence[Placed] = ()) -> None:
        self._check("submit")
        brought = [(position, begin, device_rows.read()) for position, begin, device_rows in placed]
        super().submit(slot, rows)
        for position, begin, data in brought:
            self._inputs[slot][position].reshape(-1).view(np.uint8)[begin : begin + len(data)] = list(data)
        self._hand_over(slot, self._inputs[slot][0][:rows])

    def wait(self, slot: int) -> Arrays:
        if self._poisoned in (None, slot) or self._is_spoilt:
            self._check("wait")
        rows = self._pending.pop(slot)
        outputs = super().run([buffer[:rows].copy() for buffer in self._inputs[slot]])
        if self._is_spoilt:
            self._check("wait")
        return outputs

    def run(self, arrays: Sequence[NDArray[Any]]) -> Arrays:
        self._check("run")
        self._hand_over(-1, arrays[0])
        self._check("run")
        return super().run(arrays)

    def _hand_over(self, slot: int, rows: NDArray[Any]) -> None:
        self.submitted.append([int(value) for value in rows.ravel()])
        if any(value in self.poison for value in self.submitted[-1]):
            self._poisoned = slot

    def _check(self, call: str) -> None:
        with _SPOILING:
            if self._is_spoilt:
                raise EngineSpoilt("it was spoilt before", was_executed=call == "wait")
            if self._poisoned is not None:
                self._poisoned = None
                for device in (self, *self.beside):
                    device.spoil()
                raise EngineSpoilt(SPOILT, was_executed=call in ("wait", "run"))
        self._raise(call)

    def _raise(self, call: str) -> None:
        if self.script[call]:
            error = self.script[call].popleft()
            self._is_spoilt = self._is_spoilt or isinstance(error, EngineSpoilt)
            raise error

    def _anew(self) -> None:
        """Have other arrays from now on, with nothing of the old ones in them."""
        self._inputs = [tuple(np.full_like(array, -1) for array in slot) for slot in self._inputs]


class Hang:
    """Holds each execution with this element, as a kernel that never ends; an engine's `before`."""

    def __init__(self, value: int, error: Exception | None = None) -> None:
        """`error` is raised when it is released at last."""
        self._value = value
        self._error = error
        self.began = threading.Event()
        self.released = threading.Event()

    def __call__(self, inputs: Arrays) -> None:
        if any((array == self._value).any() for array in inputs):
            self.began.set()
            self.released.wait()
            if self._error is not None:
                raise self._error
