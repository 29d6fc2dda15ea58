from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from headrace_server.garbage import Garbage

PATIENCE_SECONDS = 20.0


class Node:
    """Something that refers to itself, so that the collector alone can free it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


async def test_what_is_there_is_searched_no_more_and_what_comes_later_is() -> None:
    garbage = Garbage(asyncio.get_running_loop())
    kept = Node()
    garbage.freeze()
    assert gc.get_freeze_count() > 1000
    assert not any(found is kept for found in gc.get_objects())
    found = weakref.ref(Node())
    gc.collect()
    assert found() is None


async def test_a_model_that_was_there_and_has_gone_is_found() -> None:
    garbage = Garbage(asyncio.get_running_loop(), settling_seconds=0.0)
    model = Node()
    gone = asyncio.Event()
    weakref.finalize(model, gone.set)
    garbage.freeze()
    del model
    gc.collect()
    assert not gone.is_set(), "it was to be frozen"
    garbage.models_changed()
    await asyncio.wait_for(gone.wait(), PATIENCE_SECONDS)
    garbage.close()


async def test_nothing_is_frozen_while_changes_go_on_or_after_the_end() -> None:
    garbage = Garbage(asyncio.get_running_loop(), settling_seconds=0.0)
    garbage.freeze()
    garbage.models_changed()
    garbage.models_changed()
    garbage.close()
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.0, later.set)
    await later.wait()
    assert gc.get_freeze_count() == 0
