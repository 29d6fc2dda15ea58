from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_server.core.sequence_slots import RunningSequence, Slots


def seated(slots: Slots, *ids: int) -> list[RunningSequence]:
    sequences = [RunningSequence(number) for number in ids]
    for sequence in sequences:
        slots.seat(sequence)
    return sequences


def test_sequences_are_spread_over_the_instances_and_then_wait() -> None:
    slots = Slots(instances=2, slots=2)
    sequences = seated(slots, 1, 2, 3, 4, 5)
    assert [(one.instance, one.slot) for one in sequences] == [(0, 0), (1, 0), (0, 1), (1, 1), (-1, -1)]
    assert slots.are_wanted
    assert [one.id for one in slots.taken(0)] == [1, 3]


def test_a_slot_that_is_left_goes_to_whoever_waited_longest() -> None:
    slots = Slots(instances=1, slots=2)
    first, _, third, fourth = seated(slots, 1, 2, 3, 4)
    slots.leave(first)
    assert (first.slot, third.slot, fourth.slot) == (-1, 0, -1)
    slots.leave(fourth)
    assert not slots.are_wanted, "whoever waits for nothing more wants no slot"
    slots.leave(third)
    assert slots.of(0)[0] is None


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(0, 9)))
def test_nobody_waits_while_a_slot_is_free_and_no_slot_has_two(
    instances: int, places: int, events: list[int]
) -> None:
    slots = Slots(instances, places)
    there: dict[int, RunningSequence] = {}
    for number in events:
        if number in there:
            slots.leave(there.pop(number))
        else:
            (there[number],) = seated(slots, number)
        taken = [one for instance in range(instances) for one in slots.taken(instance)]
        assert len(taken) == min(len(there), instances * places)
        assert slots.are_wanted == (len(there) > len(taken))
        assert {one.id for one in taken} <= set(there)
        for instance in range(instances):
            for place, one in enumerate(slots.of(instance)):
                assert one is None or (one.instance, one.slot) == (instance, place)
