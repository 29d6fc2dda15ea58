"""How one model is scheduled, as its owner configured it; the defaults stand for one without a word."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final


class TimeoutAction(enum.Enum):
    """What becomes of a request that waited longer than its queue allows."""

    REJECT = "reject"
    DELAY = "delay"
    """It is executed after everything that is not late."""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """What may wait at one level of priority, and for how long."""

    max_queue_size: int = 0
    """0 leaves it to the server's limit."""
    default_timeout_us: int = 0
    """0 is none."""
    allow_timeout_override: bool = True
    """Whether the request's parameter `timeout` counts."""
    timeout_action: TimeoutAction = TimeoutAction.REJECT


class SequenceControl(enum.Enum):
    """What a sequence's control input tells the model."""

    START = "start"
    READY = "ready"
    END = "end"
    CORRID = "corrid"


@dataclass(frozen=True, slots=True)
class ControlInput:
    """An input that the server fills with one of two values of `datatype`, or with the sequence's id."""

    name: str
    control: SequenceControl
    datatype: str
    false_value: float = 0
    true_value: float = 1


@dataclass(frozen=True, slots=True)
class Sequences:
    """Requests that belong together keep one slot of one instance, from the first to the last."""

    max_idle_us: int = 1_000_000
    max_queue_delay_us: int = 0
    minimum_slot_utilization: float = 0.0
    controls: tuple[ControlInput, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The configuration of one model, as far as requests meet it."""

    instances: int = 1
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    """Longest wait of a request for a batch of a preferred size."""
    preserve_ordering: bool = False
    """Whether answers leave in the order in which their requests came."""
    priority_levels: int = 0
    """0 is one level for all; else 1 is the most urgent."""
    default_priority: int = 0
    default_policy: QueuePolicy = QueuePolicy()
    policies: Mapping[int, QueuePolicy] = field(default_factory=lambda: MappingProxyType({}))
    """By priority, where it differs from the default."""
    is_decoupled: bool = False
    """Whether a request may have none or many responses; such a model is reached by streams alone."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """By output: the names of its classes."""
    sequences: Sequences | None = None
    metric_tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Labels of the model's metrics, where each name gets a `_` in front."""
    why_alone: str = ""
    """What happens to rows in a batch, for which they are executed one at a time; "" where they are not."""


DEFAULT_SETTINGS: Final = ModelSettings()
