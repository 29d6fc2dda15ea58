from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import pytest

from headrace_engines.near import near

MANY = [f"resnet-{number}-production-model" for number in range(500)]


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("digit", ["digits", "other"], ["digits"]),
        ("digit", {"other"}, []),
        ("digit", [], []),
        ("", ["digits"], []),
        ("a" * 100_000, ["a" * 64 + "b"], ["a" * 64 + "b"]),
        ("resnet-12-production-modle", MANY, ["resnet-12-production-model"]),
        ("esnet-12-production-model", MANY, ["resnet-12-production-model"]),
        ("resnet-12-prodaction-model", MANY, ["resnet-12-production-model"]),
    ],
)
def test_the_name_that_was_probably_meant(name: str, known: Sequence[str], expected: list[str]) -> None:
    assert near(name, known) == expected


def test_several_names_the_most_like_first() -> None:
    assert near("cat", ["cart", "dog", "cats", "bat"], 2) == ["cats", "cart"]


def test_few_names_are_compared_however_many_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    class Matcher(difflib.SequenceMatcher[str]):
        def set_seq1(self, a: Any) -> None:
            compared.append(len(a))
            super().set_seq1(a)

    monkeypatch.setattr(difflib, "SequenceMatcher", Matcher)
    near("resnet-12-production-modle", MANY * 100 + ["resnet" * 10_000])
    # get_close_matches makes its matcher of two empty sequences, and then sets one for each candidate.
    assert 0 < len(compared) <= 17
    assert max(compared) <= 64
