from __future__ import annotations

import pytest

from headrace_engines.steps import SequenceTurn
from headrace_server.core.request import Parameters, Terms
from headrace_server.core.settings import ModelSettings, QueuePolicy, Sequences, TimeoutAction
from headrace_server.core.terms import TermsReader, of_the_model
from headrace_server.errors import InferenceError, InvalidInput, NotSupported

PLAIN = TermsReader("m", ModelSettings())
LEVELS = TermsReader("m", ModelSettings(priority_levels=3, default_priority=2))
PATIENT = TermsReader(
    "m",
    ModelSettings(default_policy=QueuePolicy(default_timeout_us=9, timeout_action=TimeoutAction.DELAY)),
)
SEQUENCED = TermsReader("m", ModelSettings(sequences=Sequences()))


@pytest.mark.parametrize(
    ("reader", "parameters", "terms"),
    [
        (PLAIN, {}, Terms()),
        (PLAIN, {"priority": 2, "timeout": 5}, Terms(timeout_us=5)),
        (PLAIN, {"sequence_id": 0, "sequence_start": False, "sequence_end": False}, Terms()),
        (PLAIN, {"sequence_id": ""}, Terms()),
        (PLAIN, {"triton_enable_empty_final_response": True, "own": 1.5}, Terms()),
        (LEVELS, {}, Terms(2)),
        (LEVELS, {"priority": 3}, Terms(3)),
        (PATIENT, {}, Terms(overdue_us=9)),
        (SEQUENCED, {"sequence_id": 7}, Terms(sequence=SequenceTurn(7, start=False, end=False))),
        (
            SEQUENCED,
            {"sequence_id": "s" * 128, "sequence_start": True, "sequence_end": True},
            Terms(sequence=SequenceTurn("s" * 128, start=True, end=True)),
        ),
    ],
)
def test_what_is_asked_for(reader: TermsReader, parameters: Parameters, terms: Terms) -> None:
    assert reader.read(parameters) == terms


@pytest.mark.parametrize("reader", [PLAIN, LEVELS, PATIENT])
def test_a_request_without_parameters_need_not_be_read(reader: TermsReader) -> None:
    assert reader.usual == reader.read({})


def test_a_sequence_has_to_be_named() -> None:
    assert SEQUENCED.usual is None
    for parameters in ({}, {"sequence_id": 0}, {"sequence_id": ""}):
        with pytest.raises(InvalidInput, match="needs parameter 'sequence_id', other than 0 and ''"):
            SEQUENCED.read(parameters)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"sequence_id": 7}, NotSupported, r"sequences \(parameter sequence_id\) are not supported by"),
        ({"sequence_start": True}, NotSupported, "parameter sequence_start"),
        ({"sequence_end": True}, NotSupported, "parameter sequence_end"),
        ({"sequence_id": "s" * 129}, InvalidInput, "text of at most 128 bytes expected"),
        ({"sequence_id": "é" * 65}, InvalidInput, "text of at most 128 bytes expected"),
        ({"sequence_id": -1}, InvalidInput, "'sequence_id': -1 came, a whole number or text expected"),
        ({"sequence_id": 1.5}, InvalidInput, "'sequence_id': 1.5 came"),
        ({"sequence_start": 1}, InvalidInput, "'sequence_start': 1 came, true or false expected"),
        ({"priority": -1}, InvalidInput, "'priority': -1 came, a priority, 0 or more, expected"),
        ({"timeout": True}, InvalidInput, "'timeout': True came, a whole number of microseconds, 0 or more"),
        ({"timeout": "5"}, InvalidInput, "'timeout': '5' came"),
        ({"triton_other": 1}, InvalidInput, "names that begin with 'triton_' are reserved"),
        ({"triton_enable_empty_final_response": "yes"}, InvalidInput, "'yes' came, true or false expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for(parameters: Parameters, error: type[InferenceError], message: str) -> None:
    with pytest.raises(error, match=message):
        PLAIN.read(parameters)


def test_the_model_reads_what_means_nothing_to_the_scheduler() -> None:
    own = {"temperature": 0.5, "sequence": "mine"}
    assert of_the_model(own) is own
    assert of_the_model({**own, "priority": 1, "timeout": 2, "sequence_id": 3}) == own
