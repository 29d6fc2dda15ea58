"""Which of the plans that a version orders are built, one after another, and when that ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from scripted_engines import PATIENCE_SECONDS

from headrace_engines.errors import ModelFileError
from headrace_engines.replan import Replanner
from headrace_server.models.rebuilds import Rebuilds
from headrace_server.models.versions import Version


class Ordering:
    """A version that orders these plans, a letter each."""

    number = 1
    model = SimpleNamespace(facts=SimpleNamespace(name="m"))

    def __init__(self, orders: str) -> None:
        self.rebuilds = [
            SimpleNamespace(sha256="ab", key=key, file=f"{key}.plan", model=Path("m")) for key in orders
        ]

    def again(self) -> object:
        return self


class Builds:
    """A replanner that remembers what it built, and builds some plans in vain."""

    def __init__(self, fails: str) -> None:
        self.built = ""
        self._fails = fails

    def build(self, order: Any, told: object) -> Any:
        self.built += order.key
        if order.key in self._fails:
            raise ModelFileError("the parser refuses it")
        return SimpleNamespace(likeness="alike")

    def stop(self) -> None:
        pass


@pytest.mark.parametrize(
    ("orders", "fails", "renewed", "built"),
    [
        pytest.param("AB", "", {"A": ""}, "A", id="the best serves"),
        pytest.param("AB", "A", {"B": ""}, "AB", id="the best cannot be built"),
        pytest.param("AB", "", {"A": "B", "B": ""}, "AB", id="the best cannot be loaded"),
        pytest.param("A", "", {"A": "BC", "B": "C", "C": ""}, "ABC", id="loading finds that it needs more"),
        pytest.param("AB", "", {"A": "AB", "B": "AB"}, "AB", id="none is ever found"),
        pytest.param("AB", "", {"A": None, "B": ""}, "AB", id="nothing loads, and it serves as before"),
        pytest.param("AB", "AB", {}, "AB", id="none can be built"),
    ],
)
def test_each_order_is_fulfilled_once_until_one_serves(
    orders: str, fails: str, renewed: Mapping[str, str | None], built: str
) -> None:
    builds = Builds(fails)

    def renew(name: str, version: Version) -> Version | None:
        left = renewed[builds.built[-1]]
        return None if left is None else cast(Version, Ordering(left))

    rebuilds = Rebuilds(cast(Replanner, builds), renew)
    rebuilds.ask(cast(Version, Ordering(orders)))
    rebuilds.close()
    rebuilds._thread.join(PATIENCE_SECONDS)
    assert builds.built == built
