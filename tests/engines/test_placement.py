"""How many instances run where, by what was said and the GPUs that there are."""

from __future__ import annotations

import pytest

from headrace_engines.errors import DeclarationError
from headrace_engines.placement import ANYWHERE, Group, Kind, Placement

BOTH = Placement(Kind.GPU, (Group(2, (1,)), Group(1)))


@pytest.mark.parametrize(
    ("placement", "there", "expected"),
    [
        (ANYWHERE, (), {}),
        (ANYWHERE, (0, 1), {0: 1, 1: 1}),
        (Placement(Kind.CPU, (Group(3),)), (0,), {}),
        (Placement(Kind.GPU, (Group(2),)), (1, 0), {0: 2, 1: 2}),
        (Placement(Kind.GPU, (Group(2, (1,)),)), (0, 1), {1: 2}),
        (BOTH, (0, 1), {0: 1, 1: 3}),
        (Placement(groups=(Group(2, (5,)),)), (0, 1), {}),
        (Placement(groups=(Group(2, (1,)),)), (0, 1), {1: 2}),
    ],
)
def test_instances_on_gpus(placement: Placement, there: tuple[int, ...], expected: dict[int, int]) -> None:
    assert placement.on_gpus(there, "none was found") == expected


def test_on_the_cpu_groups_add_up() -> None:
    assert (ANYWHERE.on_cpu, Placement(groups=(Group(2), Group(3, (0,)))).on_cpu) == (1, 5)


@pytest.mark.parametrize(
    ("placement", "there", "told"),
    [
        (
            BOTH,
            (),
            r"instance_group\[0\]\.kind: there is no GPU to run on \(no driver\); mend that, or write ",
        ),
        (BOTH, (0, 2), r"instance_group\[0\]\.gpus: there is no GPU 1; this machine has GPUs 0 and 2"),
    ],
)
def test_gpus_that_are_not_there(placement: Placement, there: tuple[int, ...], told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        placement.on_gpus(there, "no driver")
