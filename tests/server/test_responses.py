from __future__ import annotations

import pytest

from headrace_server.core.responses import Ending, count_response
from headrace_server.core.statistics import Duration, ResponseStatistics, Statistics


@pytest.mark.parametrize(
    ("ending", "counted"),
    [
        (
            Ending.SUCCESS,
            ResponseStatistics(
                compute_infer=Duration(1, 20), compute_output=Duration(1, 3), success=Duration(1, 23)
            ),
        ),
        (Ending.EMPTY, ResponseStatistics(empty_response=Duration(1, 23))),
        (Ending.FAIL, ResponseStatistics(fail=Duration(1, 23))),
        (Ending.CANCEL, ResponseStatistics(cancel=Duration(1, 23))),
    ],
)
def test_what_became_of_a_response(ending: Ending, counted: ResponseStatistics) -> None:
    statistics = Statistics()
    count_response(statistics, 1, ending, infer_ns=20, output_ns=3)
    assert statistics.responses == {"1": counted}


def test_invariant_4_a_program_cannot_fill_the_memory_with_numbers() -> None:
    statistics = Statistics()
    for number in range(1000):
        count_response(statistics, number, Ending.EMPTY, infer_ns=1, output_ns=0)
    assert list(statistics.responses) == [*map(str, range(64)), "64+"]
    assert statistics.responses["64+"].empty_response == Duration(1000 - 64, 1000 - 64)
