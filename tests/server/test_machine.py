from __future__ import annotations

from pathlib import Path

import pytest

from headrace_server.telemetry.machine import PROC, Processors, memory_bytes


def ticks(proc: Path, *times: int) -> None:
    (proc / "stat").write_text(f"cpu  {' '.join(map(str, times))}\ncpu0 1 2 3\nintr 5\n")


@pytest.mark.parametrize(
    ("later", "share"),
    [
        ((100, 0, 0, 100, 0, 0, 0, 0, 0, 0), 0.0),
        ((150, 0, 0, 150, 0, 0, 0, 0, 0, 0), 0.5),
        ((110, 5, 5, 110, 50, 5, 5, 10, 110, 5), 0.4),
        ((200, 0, 0, 100, 0, 0, 0, 0, 100, 0), 1.0),
        ((90, 0, 0, 100, 0, 0, 0, 0, 0, 0), 0.0),
    ],
    ids=[
        "no time passed",
        "half",
        "waiting is no work, guests count once",
        "all",
        "a clock that steps",
    ],
)
def test_utilization_is_the_share_of_time_since_the_last_look(
    tmp_path: Path, later: tuple[int, ...], share: float
) -> None:
    ticks(tmp_path, 100, 0, 0, 100, 0, 0, 0, 0, 0, 0)
    processors = Processors(tmp_path)
    ticks(tmp_path, *later)
    assert processors.utilization() == pytest.approx(share)
    assert processors.utilization() == 0.0


def test_memory_in_use_is_what_is_not_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:  400 kB\nHuge: 0\n")
    assert memory_bytes(tmp_path) == (1_024_000, 614_400)


def test_this_machine_is_read() -> None:
    assert 0 <= Processors(PROC).utilization() <= 1
    total, used = memory_bytes(PROC)
    assert total > used > 0
