"""What a request's parameters ask of the scheduler, checked against what its model's owner allows."""

from __future__ import annotations

from typing import Final

from headrace_engines.steps import SequenceTurn
from headrace_server.core.priorities import Priorities
from headrace_server.core.request import Parameters, Terms
from headrace_server.core.settings import ModelSettings
from headrace_server.errors import InvalidInput, NotSupported

_SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end")
_EMPTY_FINAL_RESPONSE: Final = "triton_enable_empty_final_response"
_OWN: Final = frozenset({*_SEQUENCE, _EMPTY_FINAL_RESPONSE, "priority", "timeout"})
_MOST_ID_BYTES: Final = 128


class TermsReader:
    """Reads the parameters of one model's requests; made once, when the model is loaded."""

    def __init__(self, model: str, settings: ModelSettings) -> None:
        self._model = model
        self._has_sequences = settings.sequences is not None
        self._priorities = Priorities(settings)
        level = self._priorities.default
        self.usual = None if self._has_sequences else Terms(level, *self._priorities.patience(level, 0), None)
        """The terms of a request without parameters; None where a request needs some."""

    def read(self, parameters: Parameters) -> Terms:
        """Return the terms that these parameters ask for. Raises InvalidInput or NotSupported."""
        for name in parameters:
            if name.startswith("triton_") and name != _EMPTY_FINAL_RESPONSE:
                raise InvalidInput(
                    f"parameter {name!r}: names that begin with 'triton_' are reserved; "
                    f"of these there is {_EMPTY_FINAL_RESPONSE!r} alone"
                )
        _flag(parameters, _EMPTY_FINAL_RESPONSE)
        level = self._priorities.level(_whole_number(parameters, "priority", "a priority, 0 or more,"))
        asked_us = _whole_number(parameters, "timeout", "a whole number of microseconds, 0 or more,")
        return Terms(level, *self._priorities.patience(level, asked_us), self._sequence(parameters))

    def _sequence(self, parameters: Parameters) -> SequenceTurn | None:
        turn = SequenceTurn(
            _sequence_id(parameters), _flag(parameters, "sequence_start"), _flag(parameters, "sequence_end")
        )
        if self._has_sequences:
            if not turn.id:
                raise InvalidInput(
                    f"model {self._model!r} needs parameter 'sequence_id', other than 0 and ''"
                )
            return turn
        for name, asked in zip(_SEQUENCE, (turn.id, turn.start, turn.end), strict=True):
            if asked:  # 0, "" and false are the protocol's "none"
                raise NotSupported(f"sequences (parameter {name}) are not supported by model {self._model!r}")
        return None


def _sequence_id(parameters: Parameters) -> int | str:
    came = parameters.get("sequence_id", 0)
    if not isinstance(came, str):
        return _whole_number(parameters, "sequence_id", "a whole number or text")
    if len(came.encode()) > _MOST_ID_BYTES:
        raise InvalidInput(f"parameter 'sequence_id': text of at most {_MOST_ID_BYTES} bytes expected")
    return came


def of_the_model(parameters: Parameters) -> Parameters:
    """Return the parameters that are the model's to read: those which mean nothing to the scheduler."""
    if _OWN.isdisjoint(parameters):
        return parameters
    return {name: value for name, value in parameters.items() if name not in _OWN}


def _whole_number(parameters: Parameters, name: str, expected: str) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(f"parameter {name!r}: {value!r} came, {expected} expected")
    return value


def _flag(parameters: Parameters, name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter {name!r}: {value!r} came, true or false expected")
    return value
