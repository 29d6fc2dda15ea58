from __future__ import annotations

from pathlib import Path

import pytest

from headrace_engines.importers.limits import spare_bytes

_GIB = 1 << 30


@pytest.mark.parametrize(
    ("container", "expected_gib"),
    [
        (None, 6 - 2),
        ("max\n", 6 - 2),
        (f"{8 * _GIB}\n", 6 - 1),
        (f"{4 * _GIB}\n", 4 - 0.5),
        ("9223372036854771712\n", 6 - 2),
    ],
)
def test_an_eighth_of_the_machine_or_container_is_kept_for_others(
    tmp_path: Path, container: str | None, expected_gib: float
) -> None:
    (tmp_path / "meminfo").write_text(
        f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {6 << 20} kB\nHugePages_Total: 0\n"
    )
    if container is not None:
        (tmp_path / "limit").write_text(container)
    assert spare_bytes(tmp_path, (tmp_path / "limit",)) == expected_gib * _GIB


def test_without_such_figures_there_is_the_whole_machine(tmp_path: Path) -> None:
    assert spare_bytes(tmp_path) > spare_bytes()
