from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.models.layout import FoundModel, FoundVersion, Stamp
from headrace_server.models.polling import Watch

FOLDER = Path("/m")


def stamp(text: str) -> Stamp:
    """ "" has no files; a text that ends with ! was renamed into its place."""
    name = text.removesuffix("!")
    files = frozenset({(name, 1, 1)}) if name else frozenset()
    return Stamp(files, was_placed=text.endswith("!"))


def model(own: str = "", problem: str = "", **versions: str) -> FoundModel:
    """A model with files of its own, and versions by number: v1="a" has the file a."""
    numbers = {int(key[1:]): text for key, text in versions.items()}
    found = {number: FoundVersion(number, FOLDER, stamp(text)) for number, text in numbers.items()}
    return FoundModel("m", FOLDER, stamp(own), found, problem)


GONE = None
NOTHING = "nothing"
"""No change is to be acted on."""

CASES: dict[str, list[tuple[FoundModel | None, FoundModel | str | None]]] = {
    # each: the looks after the first one, which saw version 1 with file a, and what each is to lead to
    "nothing changes": [(model(v1="a"), NOTHING), (model(v1="a"), NOTHING)],
    "a version is written": [
        (model(v1="a", v2="b"), NOTHING),
        (model(v1="a", v2="bb"), NOTHING),
        (model(v1="a", v2="bb"), model(v1="a", v2="bb")),
        (model(v1="a", v2="bb"), NOTHING),
    ],
    "a version is renamed into place": [(model(v1="a", v2="b!"), model(v1="a", v2="b"))],
    "a version is made empty, and filled later": [
        (model(v1="a", v2=""), NOTHING),
        (model(v1="a", v2="b"), NOTHING),
        (model(v1="a", v2="b"), model(v1="a", v2="b")),
    ],
    "a version is changed where it stands": [(model(v1="b"), NOTHING), (model(v1="b"), model(v1="b"))],
    "a version is exchanged by renaming": [(model(v1="b!"), model(v1="b"))],
    "one is written while another is renamed into place": [
        (model(v1="a", v2="b", v3="c!"), model(v1="a", v3="c")),
        (model(v1="a", v2="b", v3="c!"), model(v1="a", v2="b", v3="c")),
    ],
    "a version is removed": [
        (model(v1="a", v2="b!"), model(v1="a", v2="b")),
        (model(v2="b!"), NOTHING),
        (model(v2="b!"), model(v2="b")),
    ],
    "a version is away for a moment": [(model(), NOTHING), (model(v1="a!"), NOTHING)],
    "the last version is removed": [(model(), NOTHING), (model(), GONE), (model(), NOTHING)],
    "the model is removed": [(None, NOTHING), (None, GONE), (None, NOTHING)],
    "the model is away for a moment": [(None, NOTHING), (model(v1="a"), NOTHING), (None, NOTHING)],
    "the model is removed and comes back": [
        (None, NOTHING),
        (None, GONE),
        (model(v1="a"), NOTHING),
        (model(v1="a"), model(v1="a")),
    ],
    "the configuration is written": [
        (model("config", v1="a"), NOTHING),
        (model("config2", v1="a"), NOTHING),
        (model("config2", v1="a"), model("config2", v1="a")),
    ],
    "the configuration is away for a moment": [
        (model("config!", v1="a"), model("config", v1="a")),
        (model(v1="a"), NOTHING),
        (model("config", v1="a"), NOTHING),
        (model(v1="a"), NOTHING),
        (model(v1="a"), model(v1="a")),
    ],
    "the configuration is written, and a version placed": [
        (model("config", v1="a", v2="b!"), NOTHING),
        (model("config", v1="a", v2="b!"), model("config", v1="a", v2="b")),
    ],
    "a second repository gets a model of the same name": [
        (model(problem="two"), NOTHING),
        (model(problem="two"), model(problem="two")),
        (model(problem="two"), NOTHING),
        (model(v1="a"), NOTHING),
        (model(v1="a"), model(v1="a")),
    ],
    "all versions go while another one is written": [
        (model(v2="b"), NOTHING),
        (model(v2="bb"), NOTHING),
        (model(v2="bb"), model(v2="bb")),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_which_changes_are_acted_on_and_when(case: str) -> None:
    watch = Watch({"m": model(v1="a")})
    for place, (now, expected) in enumerate(CASES[case]):
        changes = watch.compare({} if now is None else {"m": now})
        assert changes == ({} if expected == NOTHING else {"m": expected}), f"look {place + 1}"


def test_a_new_model_is_waited_for_until_it_stands() -> None:
    watch = Watch({})
    assert watch.compare({"m": model(v1="a")}) == {}
    assert watch.compare({"m": model("config", v1="ab")}) == {}
    assert watch.compare({"m": model("config", v1="ab")}) == {"m": model("config", v1="ab")}


def test_a_new_model_that_was_renamed_into_place_is_not_waited_for() -> None:
    assert Watch({}).compare({"m": model("config!", v1="a!")}) == {"m": model("config", v1="a")}


def test_a_new_model_without_versions_is_told_of_once() -> None:
    watch = Watch({})
    assert watch.compare({"m": model()}) == {}
    assert watch.compare({"m": model()}) == {"m": model()}
    assert watch.compare({"m": model()}) == {}


LOOKS = st.dictionaries(
    st.sampled_from(["m", "n"]),
    st.builds(
        lambda own, versions: model(own, **versions),
        st.sampled_from(["", "c", "d", "d!"]),
        st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.sampled_from(["", "a", "b", "b!"])),
    ),
)


@given(st.lists(LOOKS, min_size=1, max_size=6))
def test_once_nothing_changes_everything_has_been_acted_on(looks: list[dict[str, FoundModel]]) -> None:
    first, *others = looks
    watch = Watch(first)
    served: dict[str, FoundModel] = {name: one for name, one in first.items() if one.versions}
    for now in [*others, looks[-1], looks[-1]]:
        for name, found in watch.compare(now).items():
            if found is None or not found.versions:
                served.pop(name, None)
            else:
                served[name] = found
    assert served == {name: one for name, one in looks[-1].items() if one.versions}
    assert watch.compare(looks[-1]) == {}
