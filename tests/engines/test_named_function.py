from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace_engines.named_function import named_function


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.py").write_text("HALF = 21\n")
    (tmp_path / "mine.py").write_text(
        "import neighbour\ndef answer(): return neighbour.HALF * 2\nTEXT = 'a'\n"
    )
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    package = tmp_path / "package_of_mine"
    package.mkdir()
    (package / "inner.py").write_text("def answer(): return 43\n")


def test_a_file_s_function_is_found_with_its_neighbours(tmp_path: Path) -> None:
    before = list(sys.path)
    assert named_function("mine.py:answer")() == 42
    assert named_function(f"{tmp_path}/mine.py:answer")() == 42
    assert sys.path == before


def test_a_module_is_looked_for_in_the_current_folder() -> None:
    assert named_function("package_of_mine.inner:answer")() == 43


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mine.py", "expected file.py:function or package.module:function"),
        (":answer", "expected file.py:function"),
        ("mine.py:no function", "expected file.py:function"),
        ("none.py:answer", "none.py cannot be imported: FileNotFoundError"),
        ("broken.py:answer", "broken.py cannot be imported: ModuleNotFoundError: .*nothing_of_this_name"),
        ("no_module.of_mine:answer", "no_module.of_mine cannot be imported: ModuleNotFoundError"),
        ("mine.py:other", "mine.py has no function 'other'"),
        ("mine.py:TEXT", "mine.py has no function 'TEXT'"),
    ],
)
def test_what_names_no_function_is_told(source: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        named_function(source)
