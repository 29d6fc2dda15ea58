"""What README.md and docs/ show is run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from digits import PACKAGES, BuiltRepository

from headrace_cli.main import COMMANDS, run

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
SHOWN_ADDRESS = "127.0.0.1:8001"


def blocks(language: str) -> Iterator[tuple[Path, int, str]]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(rf"```{language}\n(.*?)```", text, re.DOTALL):
            yield page, text[: found.start()].count("\n") + 1, found[1]


def name(value: object) -> str | None:
    return value.name if isinstance(value, Path) else None


@pytest.mark.parametrize(("page", "line", "code"), [*blocks("python")], ids=name)
def test_the_code_runs(
    page: Path, line: int, code: str, digits_server: str, digits_repository: BuiltRepository
) -> None:
    if "tritonclient" in code:
        pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    program = f"import sys; sys.path[:0] = {PACKAGES!r}\n" + code.replace(SHOWN_ADDRESS, digits_server)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=digits_repository.folder.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{page.name} line {line}: {done.stderr}"


@pytest.mark.parametrize(("page", "line", "shown"), [*blocks("console")], ids=name)
def test_the_commands_exist_with_their_options(
    page: Path, line: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in re.findall(r"^\$ headrace (.*)", shown, re.MULTILINE):
        used, *words = command.split("#")[0].split()
        assert used in COMMANDS, f"{page.name} line {line}"
        assert run([used, "--help"]) == 0
        known = capsys.readouterr().out
        for flag in (word for word in words if word.startswith("--")):
            assert re.search(rf"(?<!\S){flag}\b", known), f"{page.name} line {line}: {flag}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_make_target_that_is_told_of_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        told = set(
            re.findall(r"`make ([a-z-]+)|^\$ make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        )
        assert {first or second for first, second in told} <= targets
