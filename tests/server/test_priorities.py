from __future__ import annotations

from types import MappingProxyType

import pytest

from headrace_server.core.priorities import Patience, Priorities
from headrace_server.core.settings import ModelSettings, QueuePolicy, TimeoutAction

LEVELS = Priorities(ModelSettings(priority_levels=3, default_priority=2))


@pytest.mark.parametrize(("asked", "level"), [(0, 2), (1, 1), (2, 2), (3, 3), (4, 2), (2**63, 2)])
def test_a_level_that_is_none_is_the_default_one(asked: int, level: int) -> None:
    assert LEVELS.level(asked) == level


@pytest.mark.parametrize("asked", [0, 1, 7])
def test_a_model_without_levels_has_one(asked: int) -> None:
    assert Priorities(ModelSettings(default_priority=5)).level(asked) == 0


@pytest.mark.parametrize("default", [0, 4])
def test_the_default_is_one_of_the_levels(default: int) -> None:
    with pytest.raises(ValueError, match=f"default priority {default} came, a level from 1 to 3 expected"):
        Priorities(ModelSettings(priority_levels=3, default_priority=default))


@pytest.mark.parametrize(
    ("policy", "asked_us", "patience"),
    [
        (QueuePolicy(), 0, Patience(0, 0)),
        (QueuePolicy(), 7, Patience(7, 0)),
        (QueuePolicy(default_timeout_us=5), 0, Patience(5, 0)),
        (QueuePolicy(default_timeout_us=5), 3, Patience(3, 0)),
        (QueuePolicy(default_timeout_us=5), 7, Patience(5, 0)),
        (QueuePolicy(default_timeout_us=5, allow_timeout_override=False), 3, Patience(5, 0)),
        (QueuePolicy(allow_timeout_override=False), 3, Patience(0, 0)),
        (QueuePolicy(default_timeout_us=5, timeout_action=TimeoutAction.DELAY), 0, Patience(0, 5)),
        (QueuePolicy(timeout_action=TimeoutAction.DELAY), 3, Patience(0, 3)),
    ],
)
def test_how_long_a_request_may_wait(policy: QueuePolicy, asked_us: int, patience: Patience) -> None:
    of_all = Priorities(ModelSettings(default_policy=policy))
    assert of_all.patience(0, asked_us) == patience
    of_one = Priorities(
        ModelSettings(priority_levels=2, default_priority=2, policies=MappingProxyType({1: policy}))
    )
    assert of_one.patience(1, asked_us) == patience
    assert of_one.patience(2, 0) == Patience(0, 0)
