"""Once more: what is done with an engine fails where its GPU is spoilt meanwhile, maybe by another model.

One such failure says nothing of the model itself; a second one is taken for its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from headrace_engines.errors import EngineSpoilt

if TYPE_CHECKING:
    from headrace_engines.engine import DeviceSide
    from headrace_engines.runtime.cuda.context import Gpu

T = TypeVar("T")

_log = logging.getLogger(__name__)


def with_renewal(device: DeviceSide | None, step: Callable[[], T]) -> T:
    """Do a step with an engine that is there, and has this besides; once more where that has to be renewed.

    Raises EngineSpoilt if it is spoilt again, or has no device, DeviceError if the GPU is lost.
    """
    return step() if device is None else _once_more(step, device.renew)


def in_usable_context(gpu: Gpu, step: Callable[[int], T]) -> T:
    """Do a step of making an engine, with the generation of the context for it; once more in a fresh one.

    If the step spoils that as well, another one is left to the others, and EngineSpoilt raised.
    """
    generation = gpu.generation

    def renew() -> None:
        nonlocal generation
        generation = gpu.renew(generation)

    try:
        return _once_more(lambda: step(generation), renew)
    except EngineSpoilt:
        gpu.renew(generation)
        raise


def _once_more(step: Callable[[], T], renew: Callable[[], object]) -> T:
    try:
        return step()
    except EngineSpoilt as error:
        _log.warning("once more, in a fresh context: an engine was spoilt while it was made ready: %s", error)
    renew()
    return step()
