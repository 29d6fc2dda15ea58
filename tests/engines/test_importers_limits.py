from __future__ import annotations

from pathlib import Path

import pytest

from headrace_engines.errors import MemoryExhausted
from headrace_engines.importers import limits
from headrace_engines.importers.limits import Limits, spare_bytes

_GIB = 1 << 30
_NO_LIMIT = "9223372036854771712"
_V1 = "9:name=systemd:/\n4:cpu,memory:/pods/mine\n0::/\n"
_V2 = "0::/pods/mine\n"


def _machine(folder: Path, available_gib: float, cgroup: str = "") -> Path:
    """Write what a machine of 16 GiB tells of memory, and of the process's cgroups."""
    (folder / "self").mkdir(parents=True)
    (folder / "self" / "cgroup").write_text(cgroup)
    (folder / "meminfo").write_text(
        f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {int(available_gib * (1 << 20))} kB\n"
        "HugePages_Total: 0\n"
    )
    return folder


def _v1(folder: Path, limit: str, used_gib: float, cached_gib: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{int(used_gib * _GIB)}\n")
    halves = int(cached_gib * _GIB / 2)
    (folder / "memory.stat").write_text(
        f"inactive_file 7\ntotal_inactive_file {halves}\ntotal_active_file {halves}\n"
    )


def _v2(folder: Path, limit: str, used_gib: float, cached_gib: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{int(used_gib * _GIB)}\n")
    halves = int(cached_gib * _GIB / 2)
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {halves}\nactive_file {halves}\n")


@pytest.mark.parametrize("available_gib", [8, 1, 0.5, 0])
def test_an_eighth_of_what_is_available_is_kept_for_others(tmp_path: Path, available_gib: float) -> None:
    assert spare_bytes(_machine(tmp_path, available_gib), tmp_path) == available_gib * _GIB * 7 / 8


@pytest.mark.parametrize("listed", [_V1, _V2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("place", "limit", "used_gib", "cached_gib", "left_gib"),
    [
        ("pods/mine", f"{4 * _GIB}", 1, 0, 3),
        ("pods/mine", f"{4 * _GIB}", 3, 2, 3),
        ("pods/mine", f"{32 * _GIB}", 1, 0, 8),
        ("pods/mine", "unlimited", 1, 0, 8),
        ("pods", f"{4 * _GIB}", 1, 0, 3),
        ("", f"{4 * _GIB}", 1, 0, 3),
        ("pods/mine", f"{4 * _GIB}", 5, 0, 0),
        ("pods/another", f"{4 * _GIB}", 1, 0, 8),
    ],
    ids=["own", "of files", "beyond the machine", "unlimited", "above", "root", "over", "another's"],
)
def test_what_a_container_uses_already_is_not_to_spare(
    tmp_path: Path, listed: str, place: str, limit: str, used_gib: float, cached_gib: float, left_gib: float
) -> None:
    proc, cgroups = _machine(tmp_path / "proc", 8, listed), tmp_path / "cgroups"
    if listed == _V1:
        _v1(cgroups / "memory" / place, limit.replace("unlimited", _NO_LIMIT), used_gib, cached_gib)
    else:
        _v2(cgroups / place, limit.replace("unlimited", "max"), used_gib, cached_gib)
    assert spare_bytes(proc, cgroups) == left_gib * _GIB * 7 / 8


def test_without_such_figures_there_is_the_whole_machine(tmp_path: Path) -> None:
    assert spare_bytes(tmp_path, tmp_path) > spare_bytes()


@pytest.mark.parametrize(("spare_gib", "told"), [(0, "0 MiB"), (0.4999, "511 MiB")])
def test_nothing_is_opened_where_too_little_is_to_spare(
    monkeypatch: pytest.MonkeyPatch, spare_gib: float, told: str
) -> None:
    monkeypatch.setattr(limits, "spare_bytes", lambda: int(spare_gib * _GIB))
    with pytest.raises(MemoryExhausted, match=rf"^{told} of memory are to spare.*--import-memory-gib"):
        Limits().settled()
    assert Limits(memory_bytes=5).settled() == Limits(memory_bytes=5), "what was asked for is tried"


def test_a_limit_that_nobody_told_is_what_is_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "spare_bytes", lambda: 3 * _GIB)
    assert Limits(seconds=7).settled() == Limits(7, 3 * _GIB)
