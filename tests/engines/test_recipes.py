from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headrace_engines.compress.recipes import AUTO, CPU, RECIPES, TENSORRT, chosen
from headrace_engines.compress.steps import is_last

_NAMES = st.sampled_from(sorted(RECIPES))
_BOTH = (CPU, TENSORRT)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ((CPU,), AUTO[CPU]),
        ((TENSORRT,), AUTO[TENSORRT]),
        ((TENSORRT, CPU), (*AUTO[CPU], *AUTO[TENSORRT])),
        ((), ()),
    ],
)
def test_auto_is_what_is_sensible_for_the_targets(
    targets: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert tuple(how.name for how in chosen("auto", targets)) == expected


@pytest.mark.parametrize(
    ("targets", "besides"), [((CPU,), ("dynamic",)), ((TENSORRT,), ()), ((CPU, TENSORRT), ("dynamic",))]
)
def test_auto_adds_scales_of_the_moment_for_single_rows(
    targets: tuple[str, ...], besides: tuple[str, ...]
) -> None:
    batched, alone = chosen("auto", targets), chosen("auto", targets, alone=True)
    assert {how.name for how in alone} - {how.name for how in batched} == set(besides)
    assert set(batched) <= set(alone)
    assert chosen(["int8-cpu"], [CPU], alone=True) == chosen(["int8-cpu"], [CPU])


def test_auto_among_names_adds_to_them_and_nothing_is_tried_twice() -> None:
    names = [how.name for how in chosen(["dynamic", "auto", "int8-cpu"], [CPU])]
    assert names == ["dynamic", *AUTO[CPU]]


def test_only_recipes_for_single_rows_are_bound_to_them() -> None:
    assert {name: how.max_rows for name, how in RECIPES.items() if how.max_rows is not None} == {"dynamic": 1}
    assert chosen(["prune-structured+dynamic"], [CPU])[0].max_rows == 1


def test_joined_recipes_do_one_thing_after_the_other_for_the_last_ones_target() -> None:
    (how,) = chosen(["clip+prune-2of4+int8-tensorrt"], [TENSORRT])
    assert [step.verb for step in how.steps] == ["clip", "prune-2of4", "quantise"]
    assert (how.name, how.target) == ("clip+prune-2of4+int8-tensorrt", TENSORRT)
    assert chosen(["prune-2of4+int8-cpu"], [CPU])[0].target == CPU


@pytest.mark.parametrize(
    ("names", "targets", "complaint"),
    [
        (["int9"], [CPU], r"^no recipe 'int9'; there are: int8-cpu, .*, joined by \+"),
        (["clip+"], [CPU], "^no recipe ''"),
        (["int8-cpu+clip"], [CPU], "^recipe 'int8-cpu\\+clip': nothing can follow int8-cpu"),
        (["clip+clip+int8-cpu"], [CPU], "the same is done twice$"),
        (["distil+distil-torch"], [CPU], "the same is done twice$"),
        (["fp8"], [CPU], "^recipe 'fp8' is for tensorrt, and the build for cpu$"),
        ("auto", ["cuda"], "^unknown target 'cuda'; expected cpu or tensorrt$"),
    ],
)
def test_what_is_wrong_is_said(names: list[str], targets: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        chosen(names, targets)


@given(st.lists(_NAMES, min_size=1, max_size=3, unique=True))
def test_a_manifest_tells_every_setting_of_every_step(names: list[str]) -> None:
    parts = [RECIPES[name] for name in names]
    verbs = [step.verb for part in parts for step in part.steps]
    assume(len(set(verbs)) == len(verbs) and not any(is_last(part.steps[-1]) for part in parts[:-1]))
    (how,) = chosen(["+".join(names)], _BOTH)
    assert how.steps == tuple(step for part in parts for step in part.steps)
    settings = how.recipe.settings
    assert how.recipe.name == how.name
    assert all(isinstance(value, str | int | float | bool) for value in settings.values())
    for part in parts:
        single = {name: value for name, value in part.recipe.settings.items() if "." in name}
        assert single.items() <= settings.items()
    assert settings["steps"] == ", ".join(step.verb for step in how.steps)


def test_no_two_recipes_are_told_alike() -> None:
    told = [tuple(how.recipe.settings.items()) for how in RECIPES.values()]
    assert len(set(told)) == len(told)


def test_descriptions_cannot_change() -> None:
    how = RECIPES["int8-cpu"]
    with pytest.raises(FrozenInstanceError):
        how.name = "other"  # type: ignore[misc]  # that is what is tried
    with pytest.raises(TypeError):
        RECIPES["int8-cpu"] = how  # type: ignore[index]  # that is what is tried
